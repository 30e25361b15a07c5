"""Use a server elsewhere as a worker."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, Label, Static

from fcd.wire.neighbours import AttachRequest
from tui.widgets.form import Form


class AttachDialog(Form[AttachRequest | None]):
    """Asks for its address, and for what is only sometimes needed."""

    BINDINGS = [Binding("escape", "dismiss(None)", "close")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -small"):
            yield Label("Attach a server that speaks OpenAI's routes", classes="dialog-title")
            yield Input(placeholder="http://host:port", id="attach-url", compact=True)
            yield Input(placeholder="name here (its host and port)", id="attach-name", compact=True)
            yield Input(placeholder="API key, if it wants one", id="attach-key", password=True, compact=True)
            yield Static("", id="attach-help", classes="dialog-hint", markup=False)
            yield Static("enter attach   tab next   esc close", classes="dialog-hint", markup=False)

    @on(Input.Submitted)
    async def _submitted(self) -> None:
        if not await self.typed():
            return
        url, name, key = (self.query_one(f"#attach-{part}", Input).value.strip() for part in ("url", "name", "key"))
        if not url.startswith(("http://", "https://")):
            self.query_one("#attach-help", Static).update("Its address begins with http:// or https://.")
            self.query_one("#attach-url").focus()
            return
        self.dismiss(AttachRequest(url, name, api_key=key))
