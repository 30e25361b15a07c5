"""How commands print: tables, JSON, sizes. Plain text first; colour only where it is wanted."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

import msgspec


def wants_colour(stream: IO[str], environ: Mapping[str, str] | None = None) -> bool:
    """Whether escape sequences may be written: a terminal that can show them, and NO_COLOR not set."""
    env = os.environ if environ is None else environ
    return stream.isatty() and not env.get("NO_COLOR") and env.get("TERM", "") not in ("dumb", "")


def print_json(value: Any) -> None:
    """Any JSON value or msgspec struct, indented, all fields of structs included."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(complete(value)), indent=2).decode() + "\n")


def complete(value: Any) -> Any:
    """Structs as dictionaries with every field, the ones at their defaults too: scripts look for them."""
    if isinstance(value, msgspec.Struct):
        return {name: complete(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {name: complete(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [complete(inner) for inner in value]
    return value


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart, as wide as what they hold."""
    if not rows:
        return ""
    widths = [max(len(str(row[column])) for row in [headers, *rows]) for column in range(len(headers))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [headers, *rows]
    )


def note(text: str) -> None:
    """A line for the person, not for the pipe."""
    print(text, file=sys.stderr, flush=True)


def size(count: float) -> str:
    """`12.3 MB`; an empty string for 0, which is not known."""
    if count <= 0:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`, `2.0 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d"


def printable(text: str) -> str:
    """Without the control characters by which a text could steer the terminal; newlines and tabs stay."""
    return "".join(
        character if character in "\n\t" or (character >= " " and not "\x7f" <= character <= "\x9f") else ""
        for character in text
    )
