"""Who fights: a pool to draw two hidden models from, or two models by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Label, OptionList, Static
from textual.widgets.option_list import Option

from fcd.wire.admin import ModelInfo
from tui.glyphs import Glyphs
from tui.widgets.pickers import model_options

Choice = tuple[Literal["blind", "named"], list[str]]


class PoolPicker(ModalScreen[Choice | None]):
    """Gives the mode and the models; an empty pool is every model that can answer."""

    BINDINGS = [
        Binding("escape", "dismiss(None)", "close"),
        # All of them at once, as they come: a mark goes to the row that the arrow before it leads to.
        Binding("space", "mark", "mark", priority=True),
        Binding("down", "move(1)", priority=True),
        Binding("up", "move(-1)", priority=True),
        Binding("pagedown", "move(8)", priority=True),
        Binding("pageup", "move(-8)", priority=True),
        Binding("n", "named", "by name", priority=True),
    ]

    def __init__(self, models: Sequence[ModelInfo], chosen: Sequence[str], glyphs: Glyphs) -> None:
        super().__init__()
        self._rows = model_options(models, "", glyphs)
        names = [name for name, _ in self._rows]
        self._chosen = [name for name in chosen if name in names]
        self._glyphs = glyphs

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label("Battle", classes="dialog-title")
            yield OptionList(compact=True)
            yield Static("", id="pool-words", markup=False)
            yield Static("space mark   enter blind, from the marked   n two by name   esc close",
                         classes="dialog-hint", markup=False)  # fmt: skip

    def on_mount(self) -> None:
        self._draw(0)
        self.query_one(OptionList).focus()

    def _draw(self, row: int) -> None:
        options = self.query_one(OptionList)
        options.clear_options()
        for name, content in self._rows:
            mark = self._glyphs.done if name in self._chosen else self._glyphs.todo
            options.add_option(Option(Content.assemble((f"{mark} ", "$text-accent"), content), id=name))
        options.highlighted = row if self._rows else None
        count = len(self._chosen)
        words = f"{count} marked: two of them are drawn" if count > 1 else "None marked: two of all are drawn"
        self.query_one("#pool-words", Static).update("Mark one more." if count == 1 else f"{words}, hidden.")

    def action_mark(self) -> None:
        options = self.query_one(OptionList)
        if options.highlighted is None:
            return
        name = self._rows[options.highlighted][0]
        if name in self._chosen:
            self._chosen.remove(name)
        else:
            self._chosen.append(name)
        self._draw(options.highlighted)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            at = (options.highlighted or 0) + step
            options.highlighted = min(max(at, 0), options.option_count - 1)

    @on(OptionList.OptionSelected)
    def _blind(self) -> None:
        if len(self._chosen) == 1:
            self._say("A blind battle draws from two models or more: mark another, or none for all.")
        else:
            self.dismiss(("blind", self._chosen))

    def action_named(self) -> None:
        if len(self._chosen) == 2:
            self.dismiss(("named", self._chosen))
        else:
            self._say("Side by side needs two: mark exactly two models.")

    def _say(self, words: str) -> None:
        self.query_one("#pool-words", Static).update(words)
