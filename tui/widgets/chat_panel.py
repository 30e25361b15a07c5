"""The panel of a conversation's system prompt and parameters, with presets that the daemon keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.widgets import Input, Static, TextArea

from fcd.errors import FcdError
from fcd.wire.chats import NamedPreset, Preset
from tui.widgets.pickers import Ask, Panel
from tui.widgets.presets import choose_preset

if TYPE_CHECKING:
    from tui.app import FcdApp

_EMPTY = "A preset needs a system prompt or a parameter: there is nothing here to keep."


class ChatPanel(Panel):
    """Gives the system prompt and the parameters, or None."""

    BINDINGS = [
        Binding("ctrl+o", "load_preset", "presets", priority=True),
        Binding("ctrl+e", "save_preset", "save as preset", priority=True),
    ]

    def __init__(self, system: str, params: Mapping[str, Any]) -> None:
        super().__init__(system, params)

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    def compose(self) -> ComposeResult:
        yield from super().compose()

    def on_mount(self) -> None:
        words = "enter or ^t apply   ^o presets   ^e keep as preset   esc leave it"
        list(self.query(".dialog-hint").results(Static))[-1].update(words)

    @work(exclusive=True, group="preset")
    async def action_load_preset(self) -> None:
        try:
            chosen = await choose_preset(self.fcd)
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
            return
        if chosen is not None:
            self.put(chosen)

    def put(self, preset: NamedPreset) -> None:
        """Fill the fields; parameters of the panel that the preset leaves out become empty."""
        self.query_one("#system", TextArea).load_text(preset.system)
        for name in self._names:
            value = preset.params.get(name)
            self.query_one(f"#param-{name}", Input).value = "" if value is None else str(value)

    @work(exclusive=True, group="preset")
    async def action_save_preset(self) -> None:
        if not await self.typed():
            return
        read = self.read()
        if read is None:
            return
        if not any(read):
            self.query_one("#param-help", Static).update(_EMPTY)
            return
        name = await self.fcd.push_screen_wait(Ask("Keep this as preset", placeholder="name"))
        if not name:
            return
        try:
            await self.fcd.link.connected().put_preset(name, Preset(*read))
            self.notify(f"Kept as preset {name}.", timeout=2, markup=False)
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
