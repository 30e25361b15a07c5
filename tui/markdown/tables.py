"""Tables that fit a width. A table that grows keeps the rows it has drawn as long as its columns keep their width."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content

from tui.glyphs import Glyphs
from tui.markdown.lines import FAINT, MUTED, to_content, wrap
from tui.markdown.model import Align, Inline, Table

_NARROWEST = 5
Row = tuple[Inline, ...]


def fit(natural: Sequence[int], room: int) -> list[int] | None:
    """Column widths that fit in `room` cells, taking from the widest first; None when there are too many columns."""
    if sum(natural) <= room:
        return list(natural)
    if sum(min(width, _NARROWEST) for width in natural) > room:
        return None
    low, high = _NARROWEST, max(natural)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(width, middle) for width in natural) <= room:
            low = middle
        else:
            high = middle - 1
    widths = [min(width, low) for width in natural]
    spare = room - sum(widths)
    for index, width in enumerate(natural):
        if spare > 0 and width > widths[index]:
            widths[index] += 1
            spare -= 1
    return widths


def natural_width(cell: Inline) -> int:
    return max(cell_len(line) for line in cell.text.split("\n"))


class TableLayout:
    """Rows of one table at one width."""

    def __init__(self, width: int, glyphs: Glyphs) -> None:
        self._width = width
        self._glyphs = glyphs
        self._rows: list[Row] = []
        self._natural: list[list[int]] = []
        self._widths: list[int] | None = []
        self._drawn: list[list[Content]] = []
        self._ruled: tuple[list[int], Content] | None = None

    def draw(self, table: Table) -> list[Content]:
        """All the rows of the screen for this state of the table."""
        rows = [table.header, *table.rows]
        kept = _common(self._rows, rows)
        del self._natural[kept:], self._drawn[kept:]
        self._natural += [[natural_width(cell) for cell in row] for row in rows[kept:]]
        self._rows = rows
        natural = [max(1, *(row[column] for row in self._natural)) for column in range(len(table.header))]
        widths = fit(natural, self._width - 3 * (len(natural) - 1))
        if widths != self._widths:
            self._widths, self._drawn = widths, []
        if widths is None:
            return _records(table, self._width, self._glyphs)
        for index in range(len(self._drawn), len(rows)):
            self._drawn.append(self._draw_row(rows[index], table.aligns, widths, header=index == 0))
        return self._assemble(widths)

    def _assemble(self, widths: list[int]) -> list[Content]:
        if not self._drawn or self._ruled is None or self._ruled[0] != widths:
            joint = f"{self._glyphs.rule}{self._glyphs.cross}{self._glyphs.rule}"
            self._ruled = widths, Content.styled(joint.join(self._glyphs.rule * width for width in widths), FAINT)
        ruled = self._ruled[1]
        loose = any(len(row) > 1 for row in self._drawn[1:])
        out = [*self._drawn[0], ruled]
        for index, row in enumerate(self._drawn[1:]):
            if loose and index:
                out.append(ruled)
            out += row
        return out

    def _draw_row(self, row: Row, aligns: Sequence[Align], widths: list[int], *, header: bool) -> list[Content]:
        cells = [
            [piece.content for piece in wrap(to_content(cell, "bold" if header else ""), width)]
            for cell, width in zip(row, widths, strict=True)
        ]
        height = max(len(cell) for cell in cells)
        separator = Content.styled(f" {self._glyphs.column} ", FAINT)
        lines = []
        for y in range(height):
            parts: list[Content] = []
            for column, cell in enumerate(cells):
                piece = cell[y] if y < len(cell) else Content("")
                parts += [separator, _aligned(piece, widths[column], aligns[column])]
            lines.append(Content.assemble(*parts[1:]))
        return lines


def _aligned(content: Content, width: int, align: Align) -> Content:
    space = max(0, width - content.cell_length)
    left = space if align == "right" else space // 2 if align == "center" else 0
    return content.pad(left, space - left) if space else content


def _common(one: Sequence[Row], other: Sequence[Row]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine is not theirs and mine != theirs:
            break
        count += 1
    return count


def _records(table: Table, width: int, glyphs: Glyphs) -> list[Content]:
    """A table too wide for columns: one `name: value` row per cell."""
    out: list[Content] = []
    for index, row in enumerate(table.rows or (table.header,)):
        if index:
            out.append(Content.styled(glyphs.rule * min(width, 20), FAINT))
        for name, cell in zip(table.header, row, strict=False):
            label = Content.assemble((f"{name.text}: ", MUTED), to_content(cell))
            out += [piece.content for piece in wrap(label, width)]
    return out
