"""A column that scrolls, and costs little to draw while what is in it grows.

Textual draws the rows of a container and of its scroll bar one by one whenever the height changes, which is several
times a second while an answer is written. Here the background is one row repeated, and the bar a few rows shared.
"""

from __future__ import annotations

from typing import cast

from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.strip import Strip


class LightBar(ScrollBar):
    """Draws each kind of row once: track, thumb and the thumb's two ends."""

    _drawn: tuple[tuple[object, ...], list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        bar = cast("ScrollBarRender", self.render())
        width, height = self.size
        filters = len(self.get_line_filters())
        state = (width, height, bar.virtual_size, bar.window_size, bar.position, bar.style, filters)
        if self._drawn is None or self._drawn[0] != state:
            self._drawn = state, self._draw(bar, width, height)
        return [strip.crop(*crop.column_span) for strip in self._drawn[1][crop.y : crop.bottom]]

    def _draw(self, bar: ScrollBarRender, width: int, height: int) -> list[Strip]:
        style = self.app.console.get_style(bar.style)
        assert style.bgcolor is not None
        assert style.color is not None
        rows = bar.render_bar(
            height, bar.virtual_size, bar.window_size, bar.position, width, True, style.bgcolor, style.color
        ).segments
        kinds: dict[int, Strip] = {}
        for row in rows:
            if id(row) not in kinds:
                strip = Strip([row], width)
                for line_filter in self.get_line_filters():
                    strip = strip.apply_filter(line_filter, self.background_colors[1])
                kinds[id(row)] = strip
        return [kinds[id(row)] for row in rows]


class Scrolling(VerticalScroll):
    """May have padding and borders at its sides, but none above or below."""

    @property
    def vertical_scrollbar(self) -> ScrollBar:
        if self._vertical_scrollbar is None:
            self._vertical_scrollbar = LightBar(name="vertical", thickness=self.scrollbar_size_vertical)
            self._vertical_scrollbar.display = False
            self.app._start_widget(self, self._vertical_scrollbar)
        return self._vertical_scrollbar

    def render_lines(self, crop: Region) -> list[Strip]:
        rows = super().render_lines(Region(crop.x, 0, crop.width, 1))
        return rows * crop.height
