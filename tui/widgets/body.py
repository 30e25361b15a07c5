"""Text that may still be growing, drawn row by row: only the rows on the screen are rendered."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import Visual
from textual.widget import Widget

from tui.glyphs import Glyphs
from tui.markdown.layout import Layout
from tui.markdown.lines import Line, selected_text
from tui.markdown.model import Block, Inline
from tui.markdown.splitter import Splitter

_STEP = 4
"""Rows that an answer which is being written grows by: each growth moves and paints the whole screen."""
_FAST = 8
"""The same where one growth soon follows another."""
_HASTE = 6
"""Updates: a third of a second."""
_EXACT = 8
"""An answer of no more rows is as high as its text, also while it is written."""
_CACHED = 1000
"""Rows whose drawing is kept; a row that was laid out anew is another object and is drawn again."""


class Body(Widget):
    """One document: Markdown that streams in (`feed`, `finish`), or text as it is (`show_plain`)."""

    DEFAULT_CSS = """
    Body { height: auto; width: 1fr; }
    """

    def __init__(self, glyphs: Glyphs, *, shaded: bool = True, classes: str = "") -> None:
        super().__init__(classes=classes)
        self.auto_links = False
        self._glyphs = glyphs
        self._shaded = shaded
        self._splitter = Splitter()
        self._layout = Layout(1, glyphs)
        self._lines: list[Line] = []
        self._settled = 0
        """Rows at the top that no longer change."""
        self._height = 0
        self._quiet = _HASTE
        """Updates since the height changed."""
        self._strips: dict[int, tuple[Content, Strip]] = {}
        self._writing = False
        self._ahead = False
        """Whether the next layout gives it more room than it needs yet."""

    @property
    def text(self) -> str:
        """The source."""
        return self._splitter.text

    @property
    def blocks(self) -> list[Block]:
        return self._splitter.blocks

    @property
    def lines(self) -> list[Line]:
        return self._lines

    def feed(self, text: str) -> None:
        """More of the document."""
        self._writing = True
        self._splitter.feed(text)
        self._update()

    def finish(self) -> None:
        """The document is complete."""
        self._writing = False
        before = list(self._splitter.closed)
        self._splitter.finish()
        if self._splitter.closed[: len(before)] != before:
            self._layout = Layout(self._layout.width, self._glyphs, shaded=self._shaded)
            self._strips = {}
        self._update()

    def show(self, text: str) -> None:
        """Another document, complete."""
        self._reset()
        self._splitter.feed(text)
        self.finish()

    def show_plain(self, text: str) -> None:
        """Text without markup."""
        self._reset()
        self._splitter.feed("")
        self._splitter.text = text
        self._splitter.closed = [Block("paragraph", inline=Inline(text))]
        self._update()

    def _reset(self) -> None:
        self._splitter = Splitter()
        self._layout = Layout(self._layout.width, self._glyphs, shaded=self._shaded)
        self._lines, self._strips, self._settled = [], {}, 0

    @property
    def grows(self) -> bool:
        """It needs more room than it has: the screen is about to be laid out."""
        return self._rows() != self._height

    def make_room(self) -> None:
        """Grow now, where it would have to soon: the screen is laid out in any case."""
        if self._writing and len(self._lines) > _EXACT and self._height - len(self._lines) < _STEP:
            self._ahead = True
            self.refresh(layout=True)

    def _update(self) -> None:
        """Lay out what is new; draw the rows that changed, or all where the height did."""
        before, settled = self._lines, self._settled
        self._lay_out(self._layout.width)
        self._quiet += 1
        if self._rows() != self._height:
            self.refresh(layout=True)
            return
        rows = [
            y
            for y in range(min(settled, len(self._lines)), max(len(before), len(self._lines)))
            if y >= len(before) or y >= len(self._lines) or before[y].content is not self._lines[y].content
        ]
        if rows:
            self.refresh(Region(0, rows[0], self._layout.width, rows[-1] + 1 - rows[0]))

    def _rows(self) -> int:
        """How high it is: its rows, and while it is written room for the next ones, more of it when they come fast."""
        count = len(self._lines)
        if not self._writing or count <= _EXACT:
            return count
        if self._ahead:
            return -(-(count + _STEP) // _STEP) * _STEP
        if count <= self._height <= count + _FAST:
            return self._height
        step = _FAST if self._quiet < _HASTE else _STEP
        return -(-count // step) * step

    def _lay_out(self, width: int) -> None:
        if width != self._layout.width:
            self._layout = Layout(width, self._glyphs, shaded=self._shaded)
            self._strips = {}
        if width <= 1:
            return
        lines, self._settled = self._layout.lines(self._splitter.closed, self._splitter.open)
        if self._writing and lines:
            lines[-1] = self._with_cursor(lines[-1], width)
        self._lines = lines

    def _with_cursor(self, line: Line, width: int) -> Line:
        content = line.content
        if content.plain.endswith(" ") and content.cell_length >= width:
            content = content[: len(content.plain.rstrip())]
        if content.cell_length + 2 > width:
            return line
        return line._replace(content=content + Content.styled(f" {self._glyphs.cursor}", "$text-accent"))

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        if width != self._layout.width:
            self._lay_out(width)
        height = self._rows()
        self._ahead = False
        if height != self._height:
            self._height, self._quiet = height, 0
        return height

    def render_lines(self, crop: Region) -> list[Strip]:
        """Rows as they were drawn, without Textual's cache of rows, which a change of height empties."""
        if not self.is_attached:  # it was removed, and the screen is drawn once more before it is laid out anew
            return [Strip.blank(crop.width)] * crop.height
        strips = [self.render_line(y) for y in crop.line_range]
        background = self.background_colors[1]
        for line_filter in self.get_line_filters():
            strips = [strip.apply_filter(line_filter, background) for strip in strips]
        if crop.column_span != (0, self.size.width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if width != self._layout.width:
            self._lay_out(width)
        if y >= len(self._lines):
            return Strip.blank(width, self.visual_style.rich_style)
        selection = self.text_selection
        if selection is not None and selection.get_span(y) is not None:
            return self._draw_row(y, width, selection)
        content = self._lines[y].content
        cached = self._strips.get(y)
        if cached is not None and cached[0] is content:
            return cached[1]
        strip = self._draw_row(y, width, None)
        if len(self._strips) >= _CACHED:
            self._strips = {}
        self._strips[y] = content, strip
        return strip

    def _draw_row(self, y: int, width: int, selection: Selection | None) -> Strip:
        content = self._lines[y].content
        span = selection.get_span(y) if selection is not None else None
        if span is not None:
            style = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            end = len(content.plain) if span[1] == -1 else span[1]
            content = content.stylize(style, span[0], end)
        strips = Visual.to_strips(self, content, width, 1, self.visual_style, apply_selection=False, pad=True)
        return strips[0].apply_offsets(0, y)

    def notify_style_update(self) -> None:
        self._strips = {}
        super().notify_style_update()

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        start = (selection.start.x, selection.start.y) if selection.start is not None else (0, 0)
        last = len(self._lines) - 1
        end = (selection.end.x, selection.end.y) if selection.end is not None else (10**6, last)
        return selected_text(self._lines, start, end), "\n"
