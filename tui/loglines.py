"""Log lines as a screen needs them: their levels, and what is new since the last look."""

from __future__ import annotations

import re
from collections.abc import Sequence

LEVELS = ("debug", "info", "warning", "error")
_LEVEL = re.compile(r"\b(debug|info|warning|warn|error|critical|fatal|traceback)\b", re.IGNORECASE)
_RANK = {"debug": 0, "info": 1, "warn": 2, "warning": 2, "error": 3, "critical": 3, "fatal": 3, "traceback": 3}
_HEAD = 60
"""A level stands within this many characters of a line's start."""


def level_of(line: str, before: int = 1) -> int:
    """Index into LEVELS; a line that names none goes on with the one before it, as a trace does."""
    match = _LEVEL.search(line[:_HEAD])
    return _RANK[match[1].lower()] if match else before


def levels_of(lines: Sequence[str], before: int = 1) -> list[int]:
    found: list[int] = []
    for line in lines:
        before = level_of(line, before)
        found.append(before)
    return found


def fresh_lines(known: Sequence[str], fetched: Sequence[str]) -> list[str] | None:
    """The lines at the end of `fetched` that `known` does not hold; None when the two do not meet.

    Both are ends of one log. A run of equal lines is taken as short as it can be: no line is shown twice.
    """
    if not known:
        return list(fetched)
    for end in range(len(fetched), 0, -1):
        size = min(end, len(known))
        if fetched[end - 1] == known[-1] and list(fetched[end - size : end]) == list(known[-size:]):
            return list(fetched[end:])
    return None
