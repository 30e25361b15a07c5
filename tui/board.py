"""The leaderboard as text: bars for intervals, what a filter means, files in parts. No drawing here."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fcd.errors import FcdError
from fcd.wire.arena import BoardRow, HeadToHead, LeaderboardQuery
from tui.glyphs import Glyphs

PART_BYTES = 8 * 1024 * 1024
"""Imports are sent in parts of about this size."""
_SPANS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_YES = {"yes": True, "y": True, "true": True, "1": True, "no": False, "n": False, "false": False, "0": False}


def scale(rows: list[BoardRow]) -> tuple[float, float]:
    """Ratings at the left and the right end of the bars, in whole tens."""
    low = min((row.lower for row in rows), default=990.0)
    high = max((row.upper for row in rows), default=1010.0)
    low, high = low // 10 * 10, -(-high // 10) * 10
    return (low, high) if high - low >= 20 else (low - 10, high + 10)


def interval(row: BoardRow, ends: tuple[float, float], width: int, glyphs: Glyphs) -> str:
    """A rating's interval as a bar of `width` characters: `  ├──●───┤  `."""
    low, high = ends

    def at(value: float) -> int:
        return min(width - 1, max(0, round((value - low) / (high - low) * (width - 1))))

    left, point, right = at(row.lower), at(row.rating), at(row.upper)
    cells = [" "] * width
    cells[left : right + 1] = glyphs.rule * (right + 1 - left)
    cells[left], cells[right] = glyphs.whiskers
    cells[point] = glyphs.dot
    return "".join(cells)


def axis(ends: tuple[float, float], width: int) -> str:
    """The ends of the scale, above the bars."""
    low, high = f"{ends[0]:.0f}", f"{ends[1]:.0f}"
    return low + high.rjust(max(1, width - len(low)))


def margins(row: BoardRow) -> str:
    """`+31/-29`; empty where no interval was asked for."""
    if row.upper == row.lower:
        return ""
    return f"+{row.upper - row.rating:.0f}/-{row.rating - row.lower:.0f}"


HEATS = ("won", "predicted", "battles")


def heat(heads: HeadToHead, what: str, row: int, column: int) -> tuple[str, float | None]:
    """One cell of a heat map: its words, and how warm it is from 0 to 1 (None: no colour)."""
    if row == column:
        return "", None
    count = heads.battles[row][column]
    if what == "battles":
        most = max((max(counts) for counts in heads.battles), default=0)
        return (str(count), 0.5 + count / most / 2) if count else ("", None)
    share = heads.win_rate[row][column] if what == "won" else heads.predicted[row][column]
    return ("", None) if share is None else (f"{share * 100:.0f}", share)


def opponents(heads: HeadToHead, model: str) -> list[tuple[str, float, float, float | None, float]]:
    """Who a model met: name, won, lost, share of wins, predicted share; the most met first."""
    if model not in heads.models:
        return []
    row = heads.models.index(model)
    met = [
        (heads.battles[row][column], other, heads.wins[row][column], heads.win_rate[row][column], column)
        for column, other in enumerate(heads.models)
        if column != row and heads.battles[row][column]
    ]
    return [
        (other, won, count - won, share, heads.predicted[row][column])
        for count, other, won, share, column in sorted(met, key=lambda each: -each[0])
    ]


def parse_time(text: str, now: float) -> float:
    """`7d`, `12h`, `2w` back from now, or a date such as 2026-01-31, as Unix time.

    Raises:
        ValueError: with a sentence for the person.
    """
    back = re.fullmatch(r"(\d{1,5})([hdw])", text.strip())
    if back is not None:
        return now - int(back[1]) * _SPANS[back[2]]
    try:
        return time.mktime(time.strptime(text.strip(), "%Y-%m-%d"))
    except (ValueError, OverflowError):
        raise ValueError("A time is 12h, 7d or 2w ago, or a date such as 2026-01-31.") from None


def _yes(text: str, now: float) -> bool:
    if text.lower() not in _YES:
        raise ValueError("Say yes or no.")
    return _YES[text.lower()]


def _whole(text: str, now: float) -> int:
    if not text.isdigit():
        raise ValueError("Give a whole number.")
    return int(text)


def _names(text: str, now: float) -> list[str]:
    return [name for name in re.split(r"[,\s]+", text) if name]


def _one_of(*words: str) -> Callable[[str, float], str]:
    def check(text: str, now: float) -> str:
        if text not in words:
            raise ValueError(f"One of {', '.join(words)}.")
        return text

    return check


FIELDS: Mapping[str, tuple[str, Callable[[str, float], Any]]] = {
    "since": ("12h, 7d or 2w ago, or a date: 2026-01-31", parse_time),
    "until": ("the same; votes before it", parse_time),
    "language": ("of the question: en, de, zh, ...", lambda text, _: text),
    "models": ("only battles between these, with commas", _names),
    "min_tokens": ("of both answers together, at least", _whole),
    "max_tokens": ("of both answers together, at most", _whole),
    "source": ("people, judge (judge models apart), import, all", _one_of("people", "judge", "import", "all")),
    "voter": ("one voter's votes", lambda text, _: text),
    "tag": ("battles of one pool", lambda text, _: text),
    "named": ("yes: battles whose models were known count too", _yes),
    "flagged": ("yes: battles whose blindness broke count too", _yes),
    "style_control": ("yes: length and markup are taken out of the ratings", _yes),
    "method": ("bradley_terry or elo", _one_of("bradley_terry", "elo")),
    "intervals": ("sandwich, bootstrap or none", _one_of("sandwich", "bootstrap", "none")),
}
"""What the board can be filtered by: the query's own names, a few words, and how what was typed is read."""


def read_field(name: str, text: str, now: float) -> Any:
    """What was typed for a field; None leaves it as it is by default.

    Raises:
        ValueError: with a sentence for the person.
    """
    return FIELDS[name][1](text.strip(), now) if text.strip() else None


def make_query(typed: Mapping[str, str], now: float) -> LeaderboardQuery:
    """The query of what was typed, times counted back from now."""
    query = LeaderboardQuery()
    for name, text in typed.items():
        value = read_field(name, text, now)
        if value is not None:
            setattr(query, name, value)
    return query


def describe(typed: Mapping[str, str], glyphs: Glyphs) -> str:
    """`since 7d · models a,b`; empty where nothing was typed."""
    given = [f"{name.replace('_', ' ')} {text.strip()}" for name, text in typed.items() if text.strip()]
    return f" {glyphs.separator} ".join(given)


def parts_of(path: Path, size: int = PART_BYTES) -> Iterator[bytes]:
    """A file to be imported, in parts that end at a line; a JSON array in one.

    Raises:
        OSError: it cannot be read.
        FcdError: it is one JSON array and too large to be sent at once.
    """
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(0)
        if first == b"[":
            if path.stat().st_size > 3 * size:
                raise FcdError(f"{path} is one JSON array of over {3 * size >> 20} MB.", hint="Make it JSON lines.")
            yield file.read()
            return
        while part := file.read(size):
            yield part + file.readline()
