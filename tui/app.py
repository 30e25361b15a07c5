"""The interface: its screens, what they share, and how it starts."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from textual import work
from textual.app import App, SuspendNotSupported, SystemCommand
from textual.content import Content
from textual.screen import Screen
from textual.scrollbar import ScrollBar, ScrollBarRender
from textual.signal import Signal

from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings, load_settings
from fcd.wire.admin import DaemonEvent, LoadEvent, LoadRequest, Progress
from tui import formats
from tui.actions import ACTIONS, BY_ID, PLACES, bindings, key_of, keymap, show_key
from tui.chat_work import ChatWork
from tui.fits import Memory, probe_memory
from tui.glyphs import AsciiScrollBar, choose_glyphs
from tui.link import ClientFactory, Ensure, Link, open_client
from tui.screens.chat import ChatScreen
from tui.themes import ALIASES, CYCLE, THEMES, user_themes

if TYPE_CHECKING:
    from textual.notifications import SeverityLevel

    from fcd.client import Address


def _battle_screen() -> Screen[None]:
    from tui.screens.battle import BattleScreen

    return BattleScreen()


def _arena_screen() -> Screen[None]:
    from tui.screens.arena import ArenaScreen

    return ArenaScreen()


def _workers_screen() -> Screen[None]:
    from tui.screens.workers import WorkersScreen

    return WorkersScreen()


def _logs_screen() -> Screen[None]:
    from tui.screens.logs import LogsScreen

    return LogsScreen()


def _import_the_rest() -> None:
    """What the first frame does not need and the first answer does."""
    import pygments.lexers.python  # noqa: F401

    import tui.widgets.body  # noqa: F401


_LATER = ("dialogs", *(f"screens/{name}" for name in ("battle", "arena", "workers", "logs")))
"""Styles of what is not there at first. Textual would parse everything again for each screen that brings its own."""


class FcdApp(App[None]):
    """Modes are screens; the connection, the conversations and the settings are here."""

    TITLE = "fcd"
    CSS_PATH = ["app.tcss", "screens/chat.tcss"]
    """What the first frame needs; the rest is read right after it, once."""
    ENABLE_COMMAND_PALETTE = False
    BINDINGS = bindings("everywhere")
    MODES: ClassVar[dict[str, str | Callable[[], Screen[None]]]] = {
        "chat": ChatScreen,
        "battle": _battle_screen,
        "arena": _arena_screen,
        "workers": _workers_screen,
        "logs": _logs_screen,
    }
    DEFAULT_MODE = "chat"

    def __init__(
        self,
        settings: Settings,
        *,
        ascii_only: bool = False,
        readonly: bool = False,
        ensure: Ensure | None = None,
        client_factory: ClientFactory = open_client,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        memory: Memory = probe_memory,
        themes: Path | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory
        self._own_themes, self._problems = user_themes(themes) if themes is not None else ([], [])
        for theme in (*THEMES, *self._own_themes):
            self.register_theme(theme)
        self.set_reactive(FcdApp.theme, self._first_theme(settings.tui.theme))
        self._drawn_with: tuple[dict[str, str], bool, bool] | None = self._looks()
        self.stylesheet.set_variables(self._drawn_with[0])
        self.settings = settings
        self.chat_work = ChatWork(self)
        self.readonly = readonly
        self.glyphs = choose_glyphs(ascii_only or settings.tui.ascii)
        self.set_class(self.glyphs.ascii, "-ascii", update=False)
        self.moved_keys, key_problems = keymap(settings.tui.keys)
        self._problems += key_problems
        self.now = now
        self.clock = clock
        self.failed_loads: set[str] = set()
        self.link = Link(
            client_factory,
            ensure,
            self._link_changed,
            self._daemon_says,
            chats_told=self._chats_told,
            came_up=self._came_up,
        )
        self.chats_changed: Signal[DaemonEvent] = Signal(self, "chats_changed")
        self.link_changed: Signal[None] = Signal(self, "link_changed")

    @property
    def shaded(self) -> bool:
        """Whether backgrounds can set things apart here."""
        return not self.glyphs.ascii and not self.current_theme.ansi

    def on_mount(self) -> None:
        self.mutate_reactive(FcdApp.theme)
        ScrollBar.renderer = AsciiScrollBar if self.glyphs.ascii else ScrollBarRender
        self.set_keymap(self.moved_keys)
        for problem in self._problems:
            self.notify(problem, severity="warning", markup=False)
        self.call_after_refresh(self._connect)

    def _connect(self) -> None:
        if not gc.isenabled():  # the command line has put it off until here
            gc.freeze()  # what was imported stays: a collection in the middle of an answer need not look through it
            gc.enable()
        self.stylesheet.read_all([Path(__file__).parent / f"{name}.tcss" for name in _LATER])
        self.run_worker(self.link.run(), name="link", exit_on_error=True)
        self.run_worker(asyncio.to_thread(_import_the_rest), name="imports")

    def _link_changed(self) -> None:
        self.link_changed.publish(None)

    def _chats_told(self, event: DaemonEvent) -> None:
        self.chats_changed.publish(event)

    def _came_up(self) -> None:
        chat = self.get_screen_stack("chat")[0]
        if isinstance(chat, ChatScreen):
            chat.came_up()

    def _daemon_says(self, words: str) -> None:
        bad = "not applied" in words
        self.notify(words, title="config.toml", severity="warning" if bad else "information", timeout=8, markup=False)

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """As Textual does it, for as long as it takes to read: notices lie over what is below them."""
        if timeout is None:
            timeout = reading_s(message, bad=severity != "information")
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=markup)

    def key(self, action_id: str) -> str:
        """An action's key as people write it; its /command where it has none."""
        action = BY_ID[action_id]
        key = key_of(action, self.moved_keys)
        return show_key(key, self.glyphs) if key else f"/{action.command}"

    def colour(self, name: str) -> str:
        """A colour of the theme for what draws with Rich."""
        return self.theme_variables.get(name, "").removeprefix("ansi_")

    def describe(self, progress: Progress) -> str:
        return formats.progress(progress, self.glyphs)

    def load(self, model: str) -> AsyncIterator[LoadEvent]:
        """Load a model through the daemon."""
        return self.link.connected().load(LoadRequest(model))

    def _first_theme(self, name: str) -> str:
        wanted = ALIASES.get(name, name)
        if wanted in self.available_themes:
            return wanted
        if name:
            self._problems.append(_no_theme(name))
        return "dark"

    def use_theme(self, name: str) -> None:
        wanted = ALIASES.get(name, name)
        if wanted in self.available_themes:
            self.theme = wanted
            return
        self.notify(_no_theme(name), severity="warning", markup=False)

    def _looks(self) -> tuple[dict[str, str], bool, bool]:
        theme = self.current_theme
        return self.get_css_variables(), theme.dark, theme.ansi

    def refresh_css(self, animate: bool = True) -> None:
        """As Textual does it, but for colours that are in force already: it asks for those again at every start."""
        looks = self._looks()
        if looks != self._drawn_with:
            self._drawn_with = looks
            super().refresh_css(animate)

    def action_theme(self) -> None:
        cycle = [*CYCLE, *(theme.name for theme in self._own_themes if theme.name not in CYCLE)]
        at = cycle.index(self.theme) if self.theme in cycle else -1
        self.use_theme(cycle[(at + 1) % len(cycle)])

    def action_help(self) -> None:
        from tui.widgets.help import Help, help_text

        if not isinstance(self.screen, Help):
            mode, moved, glyphs, readonly = self.current_mode, self.moved_keys, self.glyphs, self.readonly
            self.push_screen(Help(lambda width: help_text(width, mode, moved, glyphs, readonly=readonly)))

    @work(exclusive=True, group="palette")
    async def action_palette(self) -> None:
        from tui.widgets.pickers import Picker

        if self.screen.is_modal:
            return
        found = {command.title: command for command in self.get_system_commands(self.screen)}
        options = [
            (title, Content.assemble((f"{title:<15}", "bold"), (command.help, "$foreground 70%")))
            for title, command in found.items()
        ]
        picker = Picker("Actions", options, hint="enter do it   esc close").add_class("-one-line")
        chosen = await self.push_screen_wait(picker)
        if chosen is not None:
            found[chosen].callback()

    def action_start_daemon(self) -> None:
        if self.link.state == "up":
            self.notify("The daemon is running.", timeout=2, markup=False)
        self.link.request_start()

    def action_go_chat(self) -> None:
        self.switch_mode("chat")

    def action_go_battle(self) -> None:
        self.switch_mode("battle")

    def action_go_arena(self) -> None:
        self.switch_mode("arena")

    def action_go_workers(self) -> None:
        self.switch_mode("workers")

    def action_go_logs(self) -> None:
        self.switch_mode("logs")

    async def show_log(self, source: str) -> None:
        """A worker's log, on the Logs screen."""
        from tui.screens.logs import LogsScreen

        await self.switch_mode("logs")
        screen = self.screen
        if isinstance(screen, LogsScreen):
            screen.show_source(source)

    @contextlib.contextmanager
    def suspend(self) -> Iterator[None]:
        """As Textual does it; in a browser there is no terminal to lend."""
        try:
            with super().suspend():
                yield
        except SuspendNotSupported as error:
            raise OSError("there is no terminal to lend, as in a browser") from error

    async def action_quit(self) -> None:
        await self.action_leave()

    def action_help_quit(self) -> None:
        """Ctrl+C: stop an answer; otherwise say how to leave."""
        screen = self.screen
        if isinstance(screen, ChatScreen) and screen.busy:
            screen.action_stop()
        elif self.current_mode == "battle" and getattr(screen, "busy", False):
            self.call_later(self.run_action, "screen.stop_battle")
        else:
            self.notify(f"{self.key('leave')} leaves; the daemon stays up.", timeout=3, markup=False)

    async def action_leave(self) -> None:
        """Leave; an answer that is being written goes on in the daemon."""
        self.exit()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of this place, by name."""
        here = {"everywhere", *PLACES[self.current_mode]} - {"prompt"}
        for action in ACTIONS:
            if action.where not in here or (self.readonly and action.destructive):
                continue
            target = "app" if action.where == "everywhere" else "screen"
            yield SystemCommand(
                action.label.capitalize(),
                f"{self.key(action.id):<10}{action.help}",
                lambda name=f"{target}.{action.id}": self.call_later(self.run_action, name),
            )


def reading_s(message: str, *, bad: bool) -> float:
    """Seconds for which a notice is shown: by its length, and what went wrong no shorter than usual."""
    return min(10.0, max(FcdApp.NOTIFICATION_TIMEOUT if bad else 2.5, len(message) / 16))


def _no_theme(name: str) -> str:
    return f"There is no theme '{name}'; {', '.join(CYCLE)} are some."


def run_tui(
    *,
    ascii: bool = False,
    readonly: bool = False,
    web: bool = False,
    port: int | None = None,
    ensure: Callable[[Callable[[str], None]], object] | None = None,
) -> int:
    """Show the interface until the person leaves; the exit code.

    Args:
        ascii: draw with ASCII characters only.
        readonly: leave out everything that changes workers.
        web: serve browsers on this machine instead; needs the extra `web`.
        port: where to serve them; any free port when it is not given.
        ensure: finds the daemon's address, starting the daemon when it is not up; it says what it is doing through
            the function it is given.
    """
    if web:
        return _serve_browsers(port or 0, [flag for flag, on in (("--ascii", ascii), ("--readonly", readonly)) if on])
    paths = resolve_paths()
    settings = load_settings(paths.config_file)
    app = FcdApp(
        settings,
        ascii_only=ascii,
        themes=paths.config / "themes",
        readonly=readonly,
        ensure=cast("Ensure", ensure) if ensure is not None else starter(paths, settings),
    )
    app.run()
    return app.return_code or 0


def _serve_browsers(port: int, flags: list[str]) -> int:
    from fcd.errors import FcdError, UsageError

    try:
        from tui.web.server import serve
    except ImportError as error:
        raise UsageError(
            f"fcd tui --web needs packages that are not installed ({error.name}).", hint="pip install 'fcd[web]'"
        ) from error
    try:
        asyncio.run(serve(port, flags))
    except OSError as error:
        raise FcdError(f"Port {port} cannot be used: {error.strerror}.", hint="Give another with --port.") from error
    return 0


def starter(paths: Paths, settings: Settings) -> Ensure:
    """Starts the daemon the way the command line does."""

    async def ensure(say: Callable[[str], None]) -> Address:
        from fcd.cli.ensure import ensure_daemon

        loop = asyncio.get_running_loop()

        def report(progress: Progress) -> None:
            words = f"{progress.stage} {progress.detail}".strip()
            loop.call_soon_threadsafe(say, words)

        return cast("Address", await asyncio.to_thread(ensure_daemon, paths, settings, report))

    return ensure
