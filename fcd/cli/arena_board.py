"""`fcd arena leaderboard`, `votes` and `pairs`."""

from __future__ import annotations

import argparse
import os
import sys
import time

from fcd.cli.access import running_client
from fcd.cli.arena_query import query_of
from fcd.cli.output import print_json, printable, table
from fcd.errors import EXIT_OK
from fcd.wire.arena import BoardRow, HeadToHead, Leaderboard

_BAR = 33
_NOTHING = "There are no votes yet. `fcd arena battle` starts a battle."


async def leaderboard(args: argparse.Namespace) -> int:
    query = query_of(args)
    async with running_client() as client:
        if args.head_to_head:
            matrix = await client.head_to_head(query)
            print_json(matrix) if args.json else print(_matrix(matrix))
            return EXIT_OK
        board = await client.leaderboard(query)
    if args.json:
        print_json(board)
        return EXIT_OK
    print(draw_board(board, ascii_only=args.ascii or not _can_unicode()))
    return EXIT_OK


async def votes(args: argparse.Namespace) -> int:
    async with running_client() as client:
        if args.voters:
            voters = await client.voters()
            if args.json:
                print_json({"voters": voters})
                return EXIT_OK
            judged = [
                (each.voter, str(each.votes), f"{each.agreement:.0%}", f"{each.expected:.0%}", f"{each.p_value:.3g}",
                 "outlier" if each.outlier else "")
                for each in voters
            ]  # fmt: skip
            print(table(("VOTER", "VOTES", "AGREES", "EXPECTED", "P", ""), judged) or _NOTHING)
            return EXIT_OK
        found = await client.votes(query_of(args), limit=min(args.limit, 1000))
    if args.json:
        print_json(found)
        return EXIT_OK
    rows = [
        (time.strftime("%Y-%m-%d %H:%M", time.localtime(vote.at)), vote.model_a, vote.model_b, vote.outcome, vote.voter,
         " ".join(vote.flags), printable(" ".join(vote.prompt.split()))[:40])
        for vote in found.votes
    ]  # fmt: skip
    print(table(("TIME", "MODEL A", "MODEL B", "VOTE", "VOTER", "FLAGS", "PROMPT"), rows) or _NOTHING)
    if found.total > len(rows):
        print(f"{len(rows)} of {found.total}; --limit shows more.")
    return EXIT_OK


async def pairs(args: argparse.Namespace) -> int:
    async with running_client() as client:
        found = (await client.pairs())[: args.limit]
    if args.json:
        print_json({"pairs": found})
        return EXIT_OK
    best = max((pair.gain for pair in found), default=0.0) or 1.0
    rows = [(pair.model_a, pair.model_b, str(pair.battles), f"{pair.gain / best:.0%}") for pair in found]
    print(table(("MODEL", "MODEL", "BATTLES", "TEACHES"), rows) or _NOTHING)
    return EXIT_OK


def draw_board(board: Leaderboard, *, ascii_only: bool = False) -> str:
    """A table with each interval drawn on one scale."""
    if not board.rows:
        left_out = f" {board.left_out} were left out by the filters." if board.left_out else ""
        return (_NOTHING if not board.left_out else "No vote is left.") + left_out
    low, high = scale_of(board.rows)
    rows = [
        (str(row.rank), row.model, f"{row.rating:.0f}", _margin(row), str(row.votes), f"{row.win_rate:.0%}",
         bar(row, low, high, ascii_only=ascii_only))
        for row in board.rows
    ]  # fmt: skip
    ends = f"{low:.0f}".ljust(_BAR - len(f"{high:.0f}")) + f"{high:.0f}"
    lines = [table(("#", "MODEL", "RATING", "95% CI", "VOTES", "WIN", ends), rows)]
    method = {"bradley_terry": "Bradley-Terry", "elo": "online Elo"}[board.method]
    counted = f"{board.votes} vote" + ("s" if board.votes != 1 else "")
    lines.append(f"{counted}, {method}" + (f", {board.left_out} left out" if board.left_out else ""))
    for effect in board.style:
        lines.append(f"{effect.feature}: {effect.points:+.0f} points ({effect.lower:+.0f} to {effect.upper:+.0f})")
    return "\n".join(lines)


def scale_of(rows: list[BoardRow]) -> tuple[float, float]:
    """Both ends of the drawn scale, in steps of 50; intervals that are far wider than the board are cut."""
    ratings = [row.rating for row in rows]
    middle = (min(ratings) + max(ratings)) / 2
    reach = max(100.0, max(ratings) - min(ratings))
    low = max(min(row.lower for row in rows), middle - 1.5 * reach)
    high = min(max(row.upper for row in rows), middle + 1.5 * reach)
    return 50.0 * (low // 50), 50.0 * -(-high // 50)


def bar(row: BoardRow, low: float, high: float, *, ascii_only: bool = False, width: int = _BAR) -> str:
    """`├──●──┤` at its place on the scale."""
    left, line, dot, right, cut = ("|", "-", "o", "|", ".") if ascii_only else ("├", "─", "●", "┤", "╌")

    def place(value: float) -> int:
        return round((value - low) / max(high - low, 1e-9) * (width - 1))

    start, middle, end = place(row.lower), place(row.rating), place(row.upper)
    cells = [" "] * width
    for column in range(max(start, 0), min(end, width - 1) + 1):
        cells[column] = line
    for column, mark in ((start, left), (end, right)):
        cells[min(max(column, 0), width - 1)] = mark if 0 <= column < width else cut
    cells[min(max(middle, 0), width - 1)] = dot
    return "".join(cells)


def _margin(row: BoardRow) -> str:
    return f"+{row.upper - row.rating:.0f}/-{row.rating - row.lower:.0f}"


def _matrix(matrix: HeadToHead) -> str:
    """Who beat whom: the share of votes that the row won against the column."""
    if not matrix.models:
        return _NOTHING
    heads = ["", *[str(index + 1) for index in range(len(matrix.models))]]
    rows = [
        [f"{index + 1} {model}", *["" if rate is None else f"{rate:.0%}" for rate in rates]]
        for index, (model, rates) in enumerate(zip(matrix.models, matrix.win_rate, strict=True))
    ]
    return table(heads, rows)


def _can_unicode() -> bool:
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
    return encoding.startswith("utf") and os.environ.get("TERM") not in ("linux", "dumb", "vt100", "vt220")
