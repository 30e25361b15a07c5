"""The Battle screen: two models answer, a person says which is better, and only then learns who they were."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, cast

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static, TextArea

from fcd.errors import ApiError, FcdError
from fcd.wire.arena import BattleEvent, BattleInfo, BattleRequest, Outcome
from tui.actions import BY_ID, bindings, keys_of
from tui.battle import SIDES, Battle
from tui.errors import told
from tui.screens.battle_actions import BattleActions
from tui.widgets.battle_pane import Pane
from tui.widgets.battle_prompt import BattlePrompt
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.prompt import Prompt
from tui.widgets.suggestions import Suggestions
from tui.widgets.vote_bar import VoteBar

if TYPE_CHECKING:
    from tui.app import FcdApp
    from tui.link import DaemonClient

_FLUSH_S = 0.05
_EARLY_S = 0.25
"""The names are asked for this long before the vote is final by itself: then the daemon can say what it changed."""
_RESUME_S = 3600.0
"""A battle without a vote that is younger than this is gone on with when the interface comes back."""
_NAMES = {"retry": "again", "pick_model": "pool", "new": "new_round", "panel": "battle_panel"}
Opens = Callable[["DaemonClient"], AsyncIterator[BattleEvent]]


class BattleScreen(BattleActions, Screen[None]):
    """One battle at a time. The daemon writes, keeps and hides; this shows what may be seen."""

    CSS_PATH = "battle.tcss"
    BINDINGS = bindings("battle")
    AUTO_FOCUS = "#prompt"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]

    def __init__(self) -> None:
        super().__init__()
        self.battle = Battle()
        self.mode: Literal["blind", "named"] = "blind"
        self.models: list[str] = []
        self.system = ""
        self.params: dict[str, Any] = {}
        self.rounds = 1
        self.side = 0
        """Of the pane that is shown where there is room for one."""
        self._asking = False
        self._deadline = 0.0
        self._asked_at = 0.0
        self._calling = False
        self._resumed = False
        self._drawn: tuple[object, ...] = ()

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    @property
    def prompt(self) -> BattlePrompt:
        return self.query_one(BattlePrompt)

    @property
    def bar(self) -> VoteBar:
        return self.query_one(VoteBar)

    @property
    def panes(self) -> list[Pane]:
        return list(self.query(Pane).results(Pane))

    @property
    def busy(self) -> bool:
        """Something is being written, or about to be."""
        return self._asking or self.battle.phase == "writing"

    @property
    def undo_s(self) -> float:
        """Seconds for which the vote can still be taken back."""
        return self._deadline - self.fcd.clock() if self.battle.phase == "voted" else 0.0

    def compose(self) -> ComposeResult:
        glyphs, shaded = self.fcd.glyphs, self.fcd.shaded
        yield Header("battle")
        yield Banner()
        with Horizontal(id="panes"):
            for side in SIDES:
                yield Pane(side, glyphs, shaded=shaded)
        yield Static("", id="battle-notice")
        yield VoteBar()
        yield Suggestions("battle")
        with Horizontal(id="prompt-row"):
            yield Static(f"{glyphs.prompt} ", id="prompt-mark", markup=False)
            yield BattlePrompt(self)
        yield KeyBar("prompt", "battle")

    def on_mount(self) -> None:
        settings = self.fcd.settings.chat
        self.system = settings.system
        self.fcd.link_changed.subscribe(self, lambda _: self.link_changed())
        self.prompt.disabled = self.fcd.readonly
        if self.fcd.readonly:
            self.set_focus(self.bar)
        self.set_interval(_FLUSH_S, self._tick)
        self.link_changed()
        self.draw()

    def link_changed(self) -> None:
        """There is a daemon (again): go on with what was being written."""
        if self.fcd.link.state != "up" or self.fcd.readonly:
            return
        if not self._resumed:
            self._resumed = True
            if self.battle.info is None and not self._asking:
                self.resume()
        elif self.battle.phase == "writing" and not self._asking:
            self._reattach()

    @work(group="resume")
    async def resume(self) -> None:
        """The last battle, where it still wants a vote."""
        with suppress(FcdError):
            client = self.fcd.link.connected()
            for last in await client.battles(1):
                if last.vote is None and self.fcd.now() - last.created_at < _RESUME_S:
                    info = await client.battle(last.id)
                    if self.battle.info is None and not self._asking and info.turns:
                        self.mode, self.models = info.mode, [name for name in (info.model_a, info.model_b) if name]
                        self.battle.take(info)
                        self.prompt.remember([turn.prompt for turn in info.turns])
                        self._reattach()

    def _reattach(self) -> None:
        info = self.battle.info
        if info is not None:
            self.follow(lambda client: client.battle_events(info.id))

    # Asking

    @on(Prompt.Sent)
    async def _sent(self, event: Prompt.Sent) -> None:
        if event.text.startswith("/") and not event.text.startswith("//"):
            await self.run_text_command(event.text)
            return
        text = event.text.removeprefix("/") if event.text.startswith("//") else event.text
        if self.busy or self.battle.phase == "voted":
            voted = self.battle.phase == "voted"
            self.prompt.put(event.text)
            words = "show the names first" if voted else "stop them, or vote, first"
            self.notify(f"{self.fcd.key('reveal' if voted else 'stop_battle')}: {words}.", markup=False)
            return
        if self.battle.phase == "final":
            self.start_round()
        self.ask(text)

    @work(exclusive=True, group="battle")
    async def ask(self, text: str) -> None:
        """A round's first question, or another one to both."""
        self._asking, self._asked_at = True, self.fcd.clock()
        self.say(None)
        self.draw()
        try:
            client = self.fcd.link.connected()
            info = self.battle.info
            if info is None:
                info = await client.create_battle(self._request(text))
                self.battle.take(info)
                await self._stream(client.battle_events(info.id))
            else:
                await self._stream(client.battle_turn(info.id, text))
        except FcdError as error:
            self.failed(error)
            if not self.prompt.text and text not in [turn.prompt for turn in self._turns()]:
                self.prompt.put(text)
        finally:
            self._asking = False
            self._ended()

    def _turns(self) -> list[Any]:
        return list(self.battle.info.turns) if self.battle.info else []

    def _request(self, prompt: str) -> BattleRequest:
        request = BattleRequest(self.mode, list(self.models), system=self.system, prompt=prompt)
        for name, value in self.params.items():
            setattr(request.sampling, name, value)
        return request

    @work(exclusive=True, group="battle")
    async def follow(self, opens: Opens) -> None:
        """Show what one stream of events says."""
        self._asking, self._asked_at = True, self.fcd.clock()
        self.say(None)
        try:
            await self._stream(opens(self.fcd.link.connected()))
        except FcdError as error:
            self.failed(error)
        finally:
            self._asking = False
            self._ended()

    async def _stream(self, events: AsyncIterator[BattleEvent]) -> None:
        while True:
            async for event in events:
                self.battle.apply(event)
            info = self.battle.info
            if info is None:
                return
            client = self.fcd.link.connected()
            latest = await client.battle(info.id)
            if self.battle.info is None or self.battle.info.id != latest.id or self._calling:
                return
            self._take(latest)
            if not latest.running:
                return
            events = client.battle_events(info.id)

    def _take(self, info: BattleInfo) -> None:
        voted = self.battle.phase == "voted"
        self.battle.take(info)
        if self.battle.phase == "voted" and not voted:
            self._deadline = self.fcd.clock() + max(0.0, info.undo_until - max(info.voted_at, 0.0))

    def _ended(self) -> None:
        """Both sides are done: the vote bar is where a person looks now."""
        if not self.is_mounted:
            return
        self.draw()
        if self.battle.phase == "open" and not self.prompt.text and self.focused is self.prompt:
            self.set_focus(self.bar)

    def failed(self, error: FcdError) -> None:
        """Tell what went wrong, above the vote bar, with the key that mends it."""
        self.say(told(error, self.fcd.key, can_start=self.fcd.link.can_start, names=_NAMES))

    def say(self, words: Content | None) -> None:
        notice = self.query_one("#battle-notice", Static)
        notice.display = words is not None
        notice.update(words or "")

    # Votes

    @work(group="vote")
    async def give_vote(self, outcome: Outcome) -> None:
        """Vote, which stops both. It is on the daemon's disk when this says so."""
        if self._calling or self.fcd.readonly:
            return
        if self.battle.phase not in ("writing", "open"):
            voted = self.battle.phase in ("voted", "final")
            self.notify("This round has its vote." if voted else "Ask something first.", timeout=2, markup=False)
            return
        if not self.battle.can_vote and outcome != "skip":
            self.notify("Nothing was said yet.", timeout=2, markup=False)
            return
        await self.call(lambda client, battle: client.vote(battle, outcome))
        if self.battle.phase in ("voted", "final"):
            self.set_focus(self.bar)

    async def call(self, request: Callable[[DaemonClient, str], Any]) -> None:
        """One request about this battle, and its answer shown; one at a time."""
        info = self.battle.info
        if info is None or self._calling:
            return
        self._calling = True
        try:
            answer = await request(self.fcd.link.connected(), info.id)
            if self.battle.info is not None and self.battle.info.id == info.id:
                self._take(answer)
            self.say(None)
        except FcdError as error:
            self.failed(error)
            if isinstance(error, ApiError) and error.status == 409:
                with suppress(FcdError):
                    self._take(await self.fcd.link.connected().battle(info.id))
        finally:
            self._calling = False
            self.draw()

    @work(group="vote")
    async def show_names(self) -> None:
        """The vote becomes final, and the names are told."""
        if self.battle.phase == "voted":
            await self.call(lambda client, battle: client.reveal(battle))
            if self.battle.phase == "voted":  # the daemon is away: not at every tick again
                self._deadline = self.fcd.clock() + 2.0

    # Drawing

    def _tick(self) -> None:
        if self.battle.phase == "voted" and not self._calling and self.undo_s <= _EARLY_S:
            self.show_names()
        if self.is_current and (self.busy or self.battle.phase == "voted"):
            self.draw()

    def on_resize(self) -> None:
        self.draw()

    def on_screen_resume(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Draw what changed."""
        battle, info = self.battle, self.battle.info
        states = tuple(self._state(side) for side in SIDES)
        lengths = tuple((len(turn.a.text), len(turn.b.text)) for turn in self._turns())
        looks = self.size.width, self.side, self.single, int(self.undo_s + 0.9)
        drawn = (info, battle.phase, battle.can_vote, states, lengths, looks)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        for pane, state, other in zip(self.panes, states, SIDES[::-1], strict=True):
            pane.sync(info.turns if info else [])
            turn = f"turn {len(info.turns)} {self.fcd.glyphs.separator} " if info and len(info.turns) > 1 else ""
            away = f"{self.fcd.key('other_pane')}: {battle.name(other)}" if self.single else ""
            pane.head(battle.name(pane.side), f"{turn if state else ''}{state}", away)
            pane.set_class(SIDES[self.side] == pane.side, "-shown")
        bodies = [pane.last for pane in self.panes if pane.last is not None]
        if any(body.grows for body in bodies):
            for body in bodies:
                body.make_room()
        self.bar.show(battle, self.undo_s + 0.9)
        self._draw_keys()
        self.query_one(Header).middle(self._summary())

    def _state(self, side: Literal["a", "b"]) -> str:
        state = self.battle.state(side)
        waiting = self.busy and (not state or state == "waiting")
        if not waiting:
            return state
        waited = self.fcd.clock() - self._asked_at
        return f"getting ready {waited:.0f} s" if waited >= 2 else "waiting"

    def _summary(self) -> str:
        if self.mode == "named":
            who = " against ".join(self.models)
        else:
            pool = f"{len(self.models)} models" if self.models else "any models"
            who = f"blind {self.fcd.glyphs.separator} {pool}"
        return f"round {self.rounds} {self.fcd.glyphs.separator} {who}"

    @on(TextArea.Changed, "#prompt")
    def _suggest(self, event: TextArea.Changed) -> None:
        self.query_one(Suggestions).show(event.text_area.text)

    @on(Prompt.Scroll)
    def _scroll(self, event: Prompt.Scroll) -> None:
        self.scroll_both(event.pages)

    def on_descendant_focus(self) -> None:
        self._draw_keys()

    def _draw_keys(self) -> None:
        bar = self.query_one(KeyBar)
        if self.focused is not self.bar:
            bar.place("prompt", "battle")
        elif self.battle.phase in ("voted", "final"):
            bar.place("battle")  # no vote is left to give; the vote bar tells how this one is taken back
        else:
            bar.place("votes", "battle")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        known = BY_ID.get(action)
        return not (known is not None and known.destructive and self.fcd.readonly)

    @property
    def vote_keys(self) -> dict[str, str]:
        """Keys that vote from an empty prompt: those of the vote bar that write nothing."""
        found = keys_of("votes", self.fcd.moved_keys)
        return {key: name for key, name in found.items() if name.startswith("vote_") and key in _SILENT}


_SILENT = {"left", "right", "up", "down"} | {f"f{number}" for number in range(1, 13)}
