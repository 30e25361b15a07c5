"""How commands print: tables, JSON, sizes. Plain text first; colour only where it is wanted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

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


class Column(NamedTuple):
    """A column of a table that is made to fit."""

    head: str
    drop: int = 0
    """Which goes first where there is no room: the highest; 0 stays."""
    shorten: bool = False
    """Its cells may be cut, once nothing more can go."""


_SHORTEST = 8
_CUT = "..."


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """A table no wider than the terminal: empty columns go, then those of least value; then long cells are cut.

    `width` 0 is no bound, as for a pipe; None asks the terminal.
    """
    limit = terminal_width() if width is None else width
    kept = [number for number, column in enumerate(columns) if not column.drop or any(row[number] for row in rows)]

    def widths() -> dict[int, int]:
        return {number: max(len(str(row[number])) for row in [[c.head for c in columns], *rows]) for number in kept}

    def total() -> int:
        return sum(widths().values()) + 2 * (len(kept) - 1)

    while limit and total() > limit and any(columns[number].drop for number in kept):
        kept.remove(max(kept, key=lambda number: columns[number].drop))
    most = widths()
    while limit and sum(most.values()) + 2 * (len(kept) - 1) > limit:
        long = [number for number in kept if columns[number].shorten and most[number] > _SHORTEST]
        if not long:
            break
        widest = max(long, key=lambda number: most[number])
        most[widest] -= 1
    shown = [[cut(row[number], most[number]) for number in kept] for row in rows]
    return table([columns[number].head for number in kept], shown)


def cut(text: str, width: int) -> str:
    """The text, or its beginning and three dots, in `width` characters."""
    return text if len(text) <= width else text[: max(0, width - len(_CUT))] + _CUT


def terminal_width() -> int:
    """The columns of the terminal that stdout is; 0 where it is none, since a pipe has no width."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


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
