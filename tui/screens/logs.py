"""The Logs screen: what the daemon and its workers wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Input, Static

from fcd.errors import FcdError
from tui.actions import bindings
from tui.loglines import LEVELS, fresh_lines
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.log_view import LogView, cleaned

if TYPE_CHECKING:
    from tui.app import FcdApp

_FIRST = 2000
_MOST = 10_000
_GAP = "warning: more lines came here than are read at once; the file has them all"
_POLL_S = 1.0


class LogsScreen(Screen[None]):
    """Follows one log at a time; '' is the daemon's own."""

    CSS_PATH = "logs.tcss"
    BINDINGS = bindings("logs")
    AUTO_FOCUS = "LogView"

    def __init__(self) -> None:
        super().__init__()
        self.source = ""
        self.level = 0
        self._trouble = ""

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    @property
    def view(self) -> LogView:
        return self.query_one(LogView)

    def compose(self) -> ComposeResult:
        yield Header("logs")
        yield Banner()
        yield LogView()
        yield Static("", id="log-state", markup=False)
        yield Input(placeholder="words to find", id="log-filter", compact=True)
        yield KeyBar("logs")

    def on_mount(self) -> None:
        self.query_one("#log-filter").display = False
        self.set_interval(_POLL_S, self.read)
        self.read()

    def show_source(self, source: str) -> None:
        """Another log: the daemon's ('') or a worker's, by name."""
        self.source = source
        self.view.replace([])
        self.read()

    @work(exclusive=True, group="read")
    async def read(self) -> None:
        if not self.is_current and self.view.lines:
            return
        source = self.source
        try:
            lines = await self._fetch(source, _FIRST)
            fresh = fresh_lines(self.view.lines, lines)
            if fresh is None:  # more came than were asked for
                lines = await self._fetch(source, _MOST)
                fresh = fresh_lines(self.view.lines, lines)
        except FcdError as error:
            self._trouble = error.message
            self._draw()
            return
        self._trouble = ""
        self.view.append(fresh if fresh is not None else [_GAP, *lines])
        self._draw()

    async def _fetch(self, source: str, count: int) -> list[str]:
        client = self.fcd.link.connected()
        lines = await (client.worker_log(source, count) if source else client.daemon_log(count))
        return [cleaned(line) for line in lines]

    @on(LogView.Moved)
    def _draw(self) -> None:
        view = self.view
        parts = [self.source or "daemon", f"{len(view.shown)} of {len(view.lines)} lines"]
        parts.append(f"{LEVELS[self.level]} and up" if self.level else "all levels")
        parts += [f"errors {view.errors()}", "following" if view.following else "paused"]
        if self._trouble:
            parts = [self._trouble]
        separator = f" {self.fcd.glyphs.separator} "
        self.query_one("#log-state", Static).update(" " + separator.join(parts))
        self.query_one(Header).middle(self.source or "daemon log")

    def action_filter_logs(self) -> None:
        field = self.query_one("#log-filter", Input)
        field.display = True
        self.set_focus(field)

    @on(Input.Changed, "#log-filter")
    def _words(self, event: Input.Changed) -> None:
        self.view.filter(level=self.level, words=event.value)

    @on(Input.Submitted, "#log-filter")
    def _found(self) -> None:
        self.set_focus(self.view)

    def key_escape(self) -> None:
        field = self.query_one("#log-filter", Input)
        field.value = ""
        field.display = False
        self.set_focus(self.view)

    def action_next_match(self) -> None:
        self._go(error=False)

    def action_next_error(self) -> None:
        self._go(error=True)

    def _go(self, *, error: bool) -> None:
        if not self.view.go_to(error=error):
            self.notify("There is no error here." if error else "Nothing matches.", timeout=2, markup=False)

    def action_level(self) -> None:
        self.level = (self.level + 1) % len(LEVELS)
        self.view.filter(level=self.level, words=self.query_one("#log-filter", Input).value)

    def action_next_source(self) -> None:
        sources = ["", *sorted(self.fcd.link.workers)]
        at = sources.index(self.source) if self.source in sources else 0
        self.show_source(sources[(at + 1) % len(sources)])

    def action_pause(self) -> None:
        self.view.follow(not self.view.following)

    def action_copy_log(self) -> None:
        self.fcd.copy_to_clipboard("\n".join(self.view.shown))
        self.notify(f"Copied {len(self.view.shown)} lines.", timeout=2, markup=False)
