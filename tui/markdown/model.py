"""What a Markdown document becomes: a flat list of leaf blocks, each with the marks of what contains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

BlockKind = Literal["paragraph", "heading", "code", "table", "rule", "html"]
MarkKind = Literal["quote", "bullet", "number", "todo", "done"]
SpanStyle = Literal["strong", "em", "code", "strike", "link", "url", "html"]
Align = Literal["left", "center", "right"]


class InlineSpan(NamedTuple):
    """A style over `text[start:end]`; `url` is set for links."""

    start: int
    end: int
    style: SpanStyle
    url: str = ""


class Inline(NamedTuple):
    """Text with styles; line breaks are kept as they were written."""

    text: str = ""
    spans: tuple[InlineSpan, ...] = ()


class Mark(NamedTuple):
    """One container of a block: a quote, or a list item.

    `first` says that this block opens the item, so that its bullet or number is drawn; the item's other blocks are
    only indented by as much.
    """

    kind: MarkKind
    first: bool
    depth: int = 0
    """How many bullet lists this one is within."""
    text: str = ""
    """The number, as in `12.`"""


NOTHING = Inline()


@dataclass(frozen=True, slots=True)
class Table:
    header: tuple[Inline, ...]
    rows: tuple[tuple[Inline, ...], ...]
    aligns: tuple[Align, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A leaf of the document."""

    kind: BlockKind
    marks: tuple[Mark, ...] = ()
    gap: bool = True
    """An empty line stands before it."""
    inline: Inline = NOTHING
    level: int = 0
    """Of a heading, 1 to 6."""
    language: str = ""
    code: str = ""
    table: Table | None = None

    @property
    def in_list(self) -> bool:
        return any(mark.kind != "quote" for mark in self.marks)
