"""Rows of the Arena's tables, and the heat map."""

from __future__ import annotations

import time

from rich.text import Text
from textual.content import Content

from fcd.wire.arena import BoardRow, HeadToHead, VoteRecord
from tui import board
from tui.battle import VERDICTS
from tui.glyphs import Glyphs

_HEAT_WIDTH = 7


def _fit(text: str, width: int, glyphs: Glyphs) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + glyphs.ellipsis[:1]


def board_columns(width: int, ends: tuple[float, float]) -> list[tuple[str, int]]:
    """Labels and widths; the bars take what the rest leaves."""
    model = min(32, max(18, width // 4))
    rest = width - model - 3 - 7 - 9 - 7 - 6 - 2
    return [("  #", 4), (" MODEL", model), ("RATING", 7), ("  95% CI", 9), (" VOTES", 7), ("WIN% ", 6),
            (" " + board.axis(ends, rest - 1), rest)]  # fmt: skip


def board_row(row: BoardRow, ends: tuple[float, float], sizes: list[int], glyphs: Glyphs, colour: str) -> list[Text]:
    """One model."""
    bar = board.interval(row, ends, sizes[-1] - 1, glyphs)
    return [
        Text(f"{row.rank:>3}"),
        Text(" " + _fit(row.model, sizes[1] - 2, glyphs)),
        Text(f"{row.rating:>6.0f}", "bold"),
        Text(f"{board.margins(row):>8}"),
        Text(f"{row.votes:>6}"),
        Text(f"{row.win_rate * 100:>4.0f}"),
        Text(" " + bar, colour),
    ]


def vote_columns(width: int) -> list[tuple[str, int]]:
    model = min(26, max(16, width // 6))
    rest = width - 14 - 2 * model - 14
    return [(" WHEN", 14), ("A", model), ("B", model), ("VOTE", 14), ("QUESTION", max(12, rest))]


def vote_row(vote: VoteRecord, sizes: list[int], glyphs: Glyphs) -> list[Text]:
    """One vote; the winner is bold."""
    when = time.strftime(" %d %b %H:%M", time.localtime(vote.at))
    verdict = VERDICTS[vote.outcome] + (f" ({vote.judge or 'judge'})" if vote.source == "judge" else "")
    question = " ".join(vote.prompt.split())
    return [
        Text(when),
        Text(_fit(vote.model_a, sizes[1] - 1, glyphs), "bold" if vote.outcome == "a" else ""),
        Text(_fit(vote.model_b, sizes[2] - 1, glyphs), "bold" if vote.outcome == "b" else ""),
        Text(_fit(verdict, sizes[3] - 1, glyphs)),
        Text(_fit(question, sizes[4] - 1, glyphs)),
    ]


def heat_map(heads: HeadToHead, kind: str, glyphs: Glyphs) -> Content:
    """Row against column; columns by number, because names are long."""
    width = max((len(name) for name in heads.models), default=0)
    width = min(width, 28)
    words = {"won": "share of battles won (ties are half), in %", "predicted": "predicted from the ratings, in %",
             "battles": "how many battles"}  # fmt: skip
    parts: list[tuple[str, str] | str] = [(f" Row against column: {words[kind]}\n\n", "$foreground 60%")]
    parts.append(" " * (width + 6) + "".join(f"{number:>{_HEAT_WIDTH}}" for number in range(1, len(heads.models) + 1)))
    for row, name in enumerate(heads.models):
        parts.append((f"\n {row + 1:>3} ", "$foreground 60%"))
        parts.append(f"{_fit(name, width, glyphs):<{width + 1}}")
        for column in range(len(heads.models)):
            cell, warmth = board.heat(heads, kind, row, column)
            parts += [" ", (f"{cell:^{_HEAT_WIDTH - 1}}" if cell else " " * (_HEAT_WIDTH - 1), _style(warmth))]
    return Content.assemble(*parts)


def _style(warmth: float | None) -> str:
    if warmth is None:
        return ""
    strength = round(abs(warmth - 0.5) * 2 * 80)
    colour = "$success" if warmth >= 0.5 else "$error"
    return f"$foreground on {colour} {strength}%"
