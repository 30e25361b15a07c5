"""A container that is drawn by repeating one row.

Textual draws every row of a container anew when its height changes, although its children cover them. While an answer
grows that happens at every line, for each container around it; here it costs one row.
"""

from __future__ import annotations

from textual.containers import Vertical
from textual.geometry import Region
from textual.strip import Strip


class Uniform(Vertical):
    """May have a background and borders at its sides, but none above or below."""

    def render_lines(self, crop: Region) -> list[Strip]:
        rows = super().render_lines(Region(crop.x, 0, crop.width, 1))
        return rows * crop.height
