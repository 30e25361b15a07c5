"""Commands that what stands in the prompt may become."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from tui.commands import matching

_MOST = 8


class Suggestions(Static):
    """Not shown while there are none."""

    def __init__(self, screen: str) -> None:
        super().__init__("", id="suggestions")
        self._screen_name = screen

    def show(self, text: str) -> None:
        found = matching(text, self._screen_name)
        self.display = bool(found)
        if not found:
            return
        rows = [
            Content.assemble(
                (f" /{action.command:<9}", "bold $text-accent"),
                (f"{action.argument:<14}" if action.argument else " " * 14, "$foreground 50%"),
                (f"{action.help}", "$foreground 80%"),
            )
            for action in found[:_MOST]
        ]
        self.update(Content("\n").join(rows))
