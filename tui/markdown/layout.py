"""Blocks to rows, keeping what was laid out before."""

from __future__ import annotations

from textual.content import Content

from tui.glyphs import Glyphs
from tui.markdown.code import CodeLayout
from tui.markdown.lines import Line, Row, gap_prefix, prefixes, text_content, with_prefixes, wrap
from tui.markdown.model import Block, Inline, SpanStyle
from tui.markdown.tables import TableLayout

_REWRAPPED = 3
"""Rows at the end of a growing paragraph that are wrapped again."""


class Layout:
    """The rows of one document at one width. Closed blocks are laid out once; of open ones, what is new."""

    def __init__(self, width: int, glyphs: Glyphs, *, shaded: bool = True) -> None:
        self.width = width
        self._glyphs = glyphs
        self._shaded = shaded
        self._closed: list[Line] = []
        self._count = 0
        self._last: Block | None = None
        self._opened: list[tuple[Block, list[Line]]] = []
        self._growing: tuple[tuple[object, ...], CodeLayout | TableLayout] | None = None
        self._text: tuple[Inline, list[Row]] | None = None

    def lines(self, closed: list[Block], opened: list[Block]) -> tuple[list[Line], int]:
        """Every row, and how many of them can no longer change.

        `closed` must start with the closed blocks of the call before.
        """
        drawn = {self._count + index: pair for index, pair in enumerate(self._opened)}
        for index in range(self._count, len(closed)):
            block = closed[index]
            self._closed += self._gap(self._last, block) + self._draw(block, index, drawn, growing=False)
            self._last = block
        self._count = len(closed)
        end = len(opened) - 1
        self._opened = [
            (block, self._draw(block, self._count + index, drawn, growing=index == end))
            for index, block in enumerate(opened)
        ]
        tail: list[Line] = []
        above = self._last
        for block, lines in self._opened:
            tail += self._gap(above, block) + lines
            above = block
        return self._closed + tail, len(self._closed)

    def _gap(self, above: Block | None, block: Block) -> list[Line]:
        if above is None or not block.gap:
            return []
        return [Line(gap_prefix(above, block, self._glyphs))]

    def _draw(
        self, block: Block, index: int, drawn: dict[int, tuple[Block, list[Line]]], *, growing: bool
    ) -> list[Line]:
        before = drawn.get(index)
        if before is not None and before[0] == block and (growing or block.kind not in ("code", "table")):
            return before[1]
        first, rest = prefixes(block, self._glyphs)
        room = max(8, self.width - first.cell_length)
        if block.kind == "code":
            rows = self._code(block, index, room).draw(block.code, complete=not growing)
        elif block.table is not None:
            rows = [Row(content) for content in self._table(block, index, room).draw(block.table)]
        elif growing and block.kind == "paragraph":
            rows = self._rewrap(text_content(block, room, self._glyphs), block.inline, room)
        else:
            rows = wrap(text_content(block, room, self._glyphs), room)
        return with_prefixes(rows, first, rest)

    def _code(self, block: Block, index: int, room: int) -> CodeLayout:
        key = (index, room, block.language)
        if self._growing is not None and self._growing[0] == key and isinstance(self._growing[1], CodeLayout):
            return self._growing[1]
        code = CodeLayout(block.language, room, shaded=self._shaded)
        self._growing = key, code
        return code

    def _table(self, block: Block, index: int, room: int) -> TableLayout:
        key = (index, room, "table")
        if self._growing is not None and self._growing[0] == key and isinstance(self._growing[1], TableLayout):
            return self._growing[1]
        table = TableLayout(room, self._glyphs)
        self._growing = key, table
        return table

    def _rewrap(self, content: Content, inline: Inline, room: int) -> list[Row]:
        """Wrap a paragraph that grows: only its last rows, when what stands above them is as it was."""
        rows = wrap(content, room) if self._text is None else self._rewrap_end(self._text, content, inline, room)
        self._text = inline, rows
        return rows

    def _rewrap_end(self, before: tuple[Inline, list[Row]], content: Content, inline: Inline, room: int) -> list[Row]:
        old, rows = before
        if len(rows) <= _REWRAPPED:
            return wrap(content, room)
        anchor = rows[-_REWRAPPED]
        if _prefix(old, anchor.start) != _prefix(inline, anchor.start):
            return wrap(content, room)
        fresh = [row._replace(start=row.start + anchor.start) for row in wrap(content[anchor.start :], room)]
        return [*rows[:-_REWRAPPED], fresh[0]._replace(joint=anchor.joint), *fresh[1:]]


def _prefix(inline: Inline, end: int) -> tuple[str, list[tuple[int, int, SpanStyle]]]:
    spans = [(span.start, min(span.end, end), span.style) for span in inline.spans if span.start < end]
    return inline.text[:end], spans
