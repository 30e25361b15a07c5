"""The line above the keys: how full the context is, the parameters, and what is going on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual.content import Content

from tui import formats
from tui.glyphs import bar
from tui.widgets.chrome import AppStatic

_SHORT = {"temperature": "T", "max_tokens": "max", "repetition_penalty": "rep", "presence_penalty": "pres"}
_WIDTH = 10


class Meter(AppStatic):
    """Draws what it is given."""

    def __init__(self) -> None:
        super().__init__(id="meter")
        self._used = 0
        self._limit = 0
        self._about = ""
        self._params: Mapping[str, Any] = {}
        self._note = ""

    def show_context(self, used: int, limit: int, *, counted: bool = True) -> None:
        """How many tokens of context are used; not counted, it is about so many."""
        self._used, self._limit, self._about = used, limit, "" if counted else "~"
        self.draw()

    def show_params(self, params: Mapping[str, Any]) -> None:
        self._params = params
        self.draw()

    def note(self, text: str) -> None:
        """What stands at the right: what is going on and the key for it."""
        if text != self._note:
            self._note = text
            self.draw()

    def on_resize(self) -> None:
        self.draw()

    def draw(self) -> None:
        glyphs = self.fcd.glyphs
        parts: list[Content] = [Content(" ")]
        if self._limit:
            fraction = self._used / self._limit
            colour = "$text-error" if fraction > 0.9 else "$text-warning" if fraction > 0.7 else "$foreground 60%"
            parts += [
                Content.styled("ctx ", "$foreground 60%"),
                Content.styled(bar(fraction, _WIDTH, glyphs), colour),
                Content.styled(
                    f" {self._about}{formats.count(self._used)}/{formats.context(self._limit)}", "$foreground 60%"
                ),
            ]
        room = self.size.width - sum(part.cell_length for part in parts) - len(self._note) - 3
        shown = ""
        for name, value in self._params.items():
            piece = (
                f"   {_SHORT.get(name, name)} {value:g}"
                if isinstance(value, float)
                else (f"   {_SHORT.get(name, name)} {value}")
            )
            if len(shown) + len(piece) > room:
                break
            shown += piece
        parts.append(Content.styled(shown, "$foreground 60%"))
        left = Content.assemble(*parts)
        space = max(1, self.size.width - left.cell_length - len(self._note) - 1)
        self.update(Content.assemble(left, " " * space, (self._note, "$foreground 80%")))
