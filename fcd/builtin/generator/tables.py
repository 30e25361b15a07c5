"""Reads `data/knowledge.toml`: the plain knowledge behind several skills."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).resolve().parent.parent / "data" / "knowledge.toml"


@cache
def _knowledge() -> dict[str, Any]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))


def pairs(section: str, key: str, separator: str) -> tuple[tuple[str, str], ...]:
    """Entries `left<separator>right` divided by semicolons; split at the last separator."""
    found = []
    for entry in str(_knowledge()[section][key]).replace("\n", " ").split(";"):
        left, _, right = entry.strip().rpartition(separator) if separator == " " else entry.strip().partition(separator)
        found.append((left.strip(), right.strip()))
    return tuple(found)


@cache
def lists() -> dict[str, tuple[str, ...]]:
    """Named lists of things: fruits, animals, planets."""
    return {name: tuple(str(text).split(", ")) for name, text in _knowledge()["lists"].items()}
