"""Windows of the Arena: filters, one line of text, a sheet to read, and a vote's two answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from fcd.wire.arena import BattleInfo
from tui.battle import SIDES, VERDICTS, Battle, figures
from tui.board import FIELDS, read_field
from tui.glyphs import Glyphs
from tui.widgets.battle_pane import Pane
from tui.widgets.form import Form


class Filters(Form[dict[str, str] | None]):
    """Gives what was typed into each field, checked."""

    BINDINGS = [
        Binding("escape", "dismiss(None)", "close", priority=True),
        Binding("ctrl+x", "clear", "clear", priority=True),
    ]

    def __init__(self, typed: Mapping[str, str], now: float) -> None:
        super().__init__()
        self._typed = typed
        self._now = now

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -wide"):
            yield Label("Which votes count", classes="dialog-title")
            with Grid(id="params"):
                for name in FIELDS:
                    yield Label(name.replace("_", " "), classes="param-name")
                    yield Input(self._typed.get(name, ""), id=f"filter-{name}", compact=True)
            yield Static("", id="filter-help", classes="dialog-hint", markup=False)
            yield Static("enter apply   tab next   ^x clear all   esc leave as it was", classes="dialog-hint",
                         markup=False)  # fmt: skip

    def on_descendant_focus(self) -> None:
        name = (self.focused.id or "").removeprefix("filter-") if self.focused else ""
        if name in FIELDS:
            self.query_one("#filter-help", Static).update(FIELDS[name][0])

    async def action_clear(self) -> None:
        if not await self.typed():
            return
        for name in FIELDS:
            self.query_one(f"#filter-{name}", Input).value = ""

    @on(Input.Submitted)
    async def _apply(self) -> None:
        if not await self.typed():
            return
        typed = {name: self.query_one(f"#filter-{name}", Input).value.strip() for name in FIELDS}
        for name, text in typed.items():
            try:
                read_field(name, text, self._now)
            except ValueError as error:
                self.query_one(f"#filter-{name}", Input).focus()
                self.call_after_refresh(self.query_one("#filter-help", Static).update, str(error))
                return
        self.dismiss({name: text for name, text in typed.items() if text})


Act = Callable[[str, Callable[[str], None]], Awaitable[str]]
"""Does something with one line of text: gives why it could not be done, or nothing. It may say how far it is."""


class LineAction(ModalScreen[None]):
    """Asks for one line of text and stays until that is dealt with: what was refused stays, with the reason.

    Leaving the window cancels what is being done.
    """

    BINDINGS = [Binding("escape", "dismiss(None)", "close", priority=True)]

    def __init__(self, title: str, act: Act, *, value: str = "", hint: str = "", stop: str = "esc stops it") -> None:
        super().__init__()
        self._title = title
        self._act = act
        self._value = value
        self._hint = hint or "enter go on   esc close"
        self._stop = stop
        self._busy = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(self._title, classes="dialog-title")
            yield Input(self._value, compact=True)
            yield Static("", classes="dialog-refusal", markup=False)
            yield Static(self._hint, classes="dialog-hint", markup=False)

    @on(Input.Submitted)
    def _given(self, event: Input.Submitted) -> None:
        if event.value.strip() and not self._busy:
            self._busy = True
            self._do(event.value.strip())

    @work
    async def _do(self, value: str) -> None:
        self._refuse("")
        self._say("begun")
        why = await self._act(value, self._say)
        self._busy = False
        if not self.is_current:
            return
        if not why:
            self.dismiss(None)
            return
        self._refuse(why)
        self.query_one(".dialog-hint", Static).update(self._hint)

    def _refuse(self, why: str) -> None:
        line = self.query_one(".dialog-refusal", Static)
        line.display = bool(why)
        line.update(why)

    def _say(self, words: str) -> None:
        self.query_one(".dialog-hint", Static).update(f"{words}   {self._stop}")


class Sheet(ModalScreen[None]):
    """Something to read."""

    BINDINGS = [Binding("escape,q,enter", "dismiss(None)", "close", priority=True)]

    def __init__(self, title: str, content: Content) -> None:
        super().__init__()
        self._title = title
        self._content = content

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Label(self._title, classes="dialog-title", markup=False)
            yield Static(self._content)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


class VoteView(ModalScreen[None]):
    """Both answers of a vote, side by side where there is room."""

    BINDINGS = [
        Binding("escape,q,enter", "dismiss(None)", "close", priority=True),
        Binding("tab,left,right", "turn_over", "other side", priority=True),
        Binding("pageup,k,up", "page(-1)", priority=True),
        Binding("pagedown,j,down,space", "page(1)", priority=True),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]

    def __init__(self, info: BattleInfo, glyphs: Glyphs, *, shaded: bool) -> None:
        super().__init__()
        self._battle = Battle()
        self._battle.take(info)
        self._info = info
        self._glyphs = glyphs
        self._shaded = shaded
        self._side = 0

    def compose(self) -> ComposeResult:
        info = self._info
        verdict = f"The vote: {VERDICTS[info.vote]}" if info.vote else "No vote"
        flags = f"   flagged: {', '.join(info.flags)}" if info.flags else ""
        with Vertical(classes="dialog -full"):
            with Horizontal(id="panes"):
                for side in SIDES:
                    yield Pane(side, self._glyphs, shaded=self._shaded)
            yield Static(Content(f"{verdict}{flags}"), classes="dialog-title")
            yield Static("PgUp PgDn scroll   tab other side   esc close", classes="dialog-hint", markup=False)

    def on_mount(self) -> None:
        for pane in self.query(Pane).results(Pane):
            pane.sync(self._info.turns)
            pane.scroller.anchor(False)
        self._show()

    def on_resize(self) -> None:
        self._show()

    def _show(self) -> None:
        for pane in self.query(Pane).results(Pane):
            other = self._battle.name("b" if pane.side == "a" else "a") if self.has_class("-narrow") else ""
            away = f"tab: {other}" if other else ""
            pane.head(self._battle.name(pane.side), figures(self._info, pane.side, self._glyphs), away)
            pane.set_class(SIDES[self._side] == pane.side, "-shown")

    def action_turn_over(self) -> None:
        self._side = 1 - self._side
        self._show()

    def action_page(self, pages: int) -> None:
        for pane in self.query(Pane).results(Pane):
            pane.scroller.scroll_relative(y=pages * 8, animate=False)
