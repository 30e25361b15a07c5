"""The Chat screen: one conversation with one model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static, TextArea
from textual.worker import WorkerError

from fcd.errors import FcdError, ModelLoadError
from tui.actions import bindings, keys_of
from tui.chats import Chat, Turn, Variant, new_chat
from tui.commands import parse_command
from tui.errors import told
from tui.fits import fitting_words
from tui.generation import Generation
from tui.screens.chat_actions import ChatActions
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.message import MessageView, TurnView
from tui.widgets.meter import Meter
from tui.widgets.prompt import Prompt
from tui.widgets.suggestions import Suggestions
from tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from tui.app import FcdApp

FLUSH_S = 0.05
"""How often an answer that is being written is drawn."""
_EASE = 8
"""Drawing takes at most one part in this many of the time; slower drawing means drawing less often."""
_SAVE_S = 5.0


class ChatScreen(ChatActions, Screen[None]):
    """Streams answers into the transcript, keeps what came, and queues what is asked meanwhile."""

    CSS_PATH = "chat.tcss"
    BINDINGS = bindings("chat")
    AUTO_FOCUS = "#prompt"

    def __init__(self) -> None:
        super().__init__()
        self.chat: Chat = new_chat("")
        self.queue: list[str] = []
        self._generation: Generation | None = None
        self._view: TurnView | None = None
        self._loading = ""
        self._onboarded = False

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    @property
    def transcript(self) -> Transcript:
        return self.query_one(Transcript)

    @property
    def prompt(self) -> Prompt:
        return self.query_one(Prompt)

    @property
    def meter(self) -> Meter:
        return self.query_one(Meter)

    @property
    def busy(self) -> bool:
        return self._view is not None

    def compose(self) -> ComposeResult:
        yield Header("chat")
        yield Banner()
        yield Transcript(self.fcd.glyphs, shaded=self.fcd.shaded)
        yield Static("", id="follow")
        yield Suggestions("chat")
        with Horizontal(id="prompt-row"):
            yield Static(f"{self.fcd.glyphs.prompt} ", id="prompt-mark", markup=False)
            yield Prompt(keys_of("prompt", self.fcd.moved_keys), edit_last=self.action_edit, leave=self._to_messages)
        yield Meter()
        yield KeyBar("prompt", "chat")

    async def on_mount(self) -> None:
        self.fcd.link_changed.subscribe(self, lambda _: self.link_changed())
        settings = self.fcd.settings.chat
        wanted = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_tokens}
        params = {name: value for name, value in wanted.items() if value is not None}
        if not settings.max_tokens:
            params.pop("max_tokens")
        await self.open_chat(new_chat(settings.model, settings.system, params))
        self.set_interval(FLUSH_S, self._tick)

    async def open_chat(self, chat: Chat) -> None:
        """Show another conversation."""
        self.chat = chat
        self.prompt.editing = False
        await self.transcript.show(chat.turns, self._welcome())
        self.prompt.remember([turn.variant.question for turn in chat.turns])
        self.meter.show_params(chat.params)
        self.link_changed()

    def _welcome(self) -> Static:
        return Static(self._welcome_words(), classes="welcome")

    def _welcome_words(self) -> Content:
        key = self.fcd.key
        return Content.assemble(
                ("fcd\n\n", "bold $text-primary"),
                ("Talk to a language model on this machine.\n\n", ""),
                (f"{key('pick_model'):>4}", "bold $text-accent"), ("  choose a model\n", "$foreground 70%"),
                (f"{key('panel'):>4}", "bold $text-accent"), ("  system prompt and parameters\n", "$foreground 70%"),
                ("   /", "bold $text-accent"), ("  commands\n", "$foreground 70%"),
                (f"{key('help'):>4}", "bold $text-accent"), ("  all keys", "$foreground 70%"),
        )  # fmt: skip

    @work(exclusive=True, group="onboard")
    async def onboard(self) -> None:
        """Where only the built-in models are there: say which larger ones would fit."""
        self._onboarded = True
        with contextlib.suppress(FcdError):
            models = await self.fcd.link.connected().models()
            if any(model.source != "builtin" for model in models):
                return
            free, where, widened = await asyncio.to_thread(self.fcd.memory)
            found = self.query(".welcome").results(Static)
            for welcome in found:
                welcome.update(self._welcome_words() + fitting_words(free, where, widened, self.fcd.key("pick_model")))

    def link_changed(self) -> None:
        """The daemon or a worker changed: say so, and load the model once there is a daemon."""
        worker = self.fcd.link.worker_for(self.chat.model)
        where = " ".join(part for part in (worker.device, worker.quantization) if part) if worker else ""
        state = "" if worker is None or worker.state == "ready" else f" {worker.state}"
        self.query_one(Header).middle(f"{self.chat.model}{state}   {where}".rstrip())
        self._show_context()
        self._draw_note()
        if self.fcd.link.state == "up" and worker is None and not self._loading and not self.busy:
            self.preload()
        if self.fcd.link.state == "up" and not self._onboarded and not self.chat.turns:
            self.onboard()

    def _show_context(self) -> None:
        worker = self.fcd.link.worker_for(self.chat.model)
        last = self.chat.turns[-1].variant if self.chat.turns else None
        used = last.prompt_tokens + last.completion_tokens if last and last.counted else 0
        self.meter.show_context(used, worker.context_length if worker else 0)

    @work(exclusive=True, group="preload")
    async def preload(self) -> None:
        """Load the conversation's model before it is asked for, so that the first answer comes soon."""
        model = self.chat.model
        if self.fcd.readonly or model in self.fcd.failed_loads:
            return
        try:
            await self._load(model)
        except FcdError as error:
            self.fcd.failed_loads.add(model)
            self.notify(error.message, severity="error", markup=False)

    async def _load(self, model: str) -> str:
        """Load a model, saying how far it is; the name that requests use."""
        worker = self.fcd.link.worker_for(model)
        if self.fcd.readonly or (worker is not None and worker.state == "ready"):
            return model
        self._say_loading(model)
        try:
            async for event in self.fcd.load(model):
                if event.type == "error":
                    raise ModelLoadError(event.error or f"{model} could not be loaded.")
                if event.progress is not None:
                    self._say_loading(f"{model}: {self.fcd.describe(event.progress)}")
                if event.type == "ready":
                    self.fcd.failed_loads.discard(model)
                    return event.model or model
        finally:
            self._say_loading("")
        raise ModelLoadError(f"The daemon stopped loading {model} without a word.")

    def _say_loading(self, words: str) -> None:
        self._loading = words
        if self._view is not None and not self._view.turn.variant.text:
            self._view.answer.notice(Content.styled(f"loading {words}", "$foreground 60%") if words else None)
        self._draw_note()

    @on(Prompt.Sent)
    async def _sent(self, event: Prompt.Sent) -> None:
        command = parse_command(event.text)
        if isinstance(command, str):
            self.notify(command, severity="warning", markup=False)
            if not self.prompt.text:
                self.prompt.put(event.text)
            return
        if command is not None:
            await self.run_command(command)
            return
        text = event.text.removeprefix("/") if event.text.startswith("//") else event.text
        if self.busy:
            self.queue.append(text)
            self._draw_note()
        elif event.editing and self.chat.turns:
            await self.ask_again(self.chat.turns[-1], text)
        else:
            await self.ask(text)

    async def ask(self, question: str) -> None:
        """A new turn."""
        turn = Turn([Variant(question, model=self.chat.model)])
        self.chat.turns.append(turn)
        self.answer(await self.transcript.add(turn, self.fcd.now()))

    async def ask_again(self, turn: Turn, question: str) -> None:
        """Another variant of a turn."""
        turn.add(Variant(question, model=self.chat.model))
        view = self.transcript.view_of(turn) or await self.transcript.add(turn, self.fcd.now())
        view.show()
        self.transcript.follow()
        self.answer(view)

    @work(exclusive=True, group="answer")
    async def answer(self, view: TurnView) -> None:
        """Write the answer of the turn's chosen variant."""
        variant = view.turn.variant
        self._view = view
        view.answer.notice(Content.styled(self.fcd.glyphs.ellipsis, "$foreground 50%"))
        self._draw_note()
        error: FcdError | None = None
        try:
            error = await self._generate(view, variant)
        except asyncio.CancelledError:
            variant.state = "stopped"
        finally:
            self._view = self._generation = None
            with contextlib.suppress(Exception):
                self._conclude(view, error)
        await self._next(variant)

    async def settle(self) -> None:
        """Stop the answer that is being written, and wait until it is kept."""
        for worker in self.workers:
            if worker.group == "answer" and not worker.is_finished:
                worker.cancel()
                with contextlib.suppress(WorkerError):
                    await worker.wait()

    def keep(self) -> None:
        """The interface is about to end: put on disk what there is."""
        if self._view is not None:
            self._view.turn.variant.state = "stopped"
        if self.chat.turns:
            with contextlib.suppress(FcdError):
                self.fcd.chats.save(self.chat)

    async def _generate(self, view: TurnView, variant: Variant) -> FcdError | None:
        try:
            self.fcd.link.connected()
            name = await self._load(self.chat.model)
            variant.model = self.chat.model
            self._generation = Generation(variant, self.fcd.clock)
            index = self.chat.turns.index(view.turn)
            body = {"model": name, "messages": self.chat.messages(index), **self.chat.params}
            await self._generation.run(self.fcd.link.connected(), body)
            return self._generation.error
        except FcdError as failure:
            variant.state, variant.error = "failed", str(failure)
            return failure

    def _conclude(self, view: TurnView, error: FcdError | None) -> None:
        view.finish()
        if error is not None:
            view.answer.notice(told(error, self.fcd.key, can_start=self.fcd.link.can_start))
        elif not view.turn.variant.text:
            words = "stopped" if view.turn.variant.state == "stopped" else "The model said nothing."
            view.answer.notice(Content.styled(words, "$foreground 60%"))
        else:
            view.answer.notice(None)
        self._show_context()
        self._draw_note()
        self.save_chat()

    async def _next(self, variant: Variant) -> None:
        """Ask what was queued; after a stop or a failure it goes back to the prompt instead."""
        if not self.queue:
            return
        if variant.state in ("done", "cut"):
            await self.ask(self.queue.pop(0))
            return
        waiting, self.queue = self.queue, []
        self.prompt.put("\n".join([*waiting, *([self.prompt.text] if self.prompt.text else [])]))
        self._draw_note()

    @work(group="save")
    async def save_chat(self) -> None:
        """Put the conversation on disk, without holding up the screen for it."""
        if self.chat.turns:
            try:
                await asyncio.to_thread(self.fcd.chats.save, self.chat)
            except FcdError as error:
                self.notify(f"The conversation is not saved. {error}", severity="error", markup=False)

    _next_flush = 0.0
    _next_save = 0.0

    def _tick(self) -> None:
        """Draw what came, 20 times a second, less often when drawing is slow."""
        now = time.monotonic()
        if self.busy:
            self._draw_follow()
        if self._view is None or self._generation is None or now < self._next_flush:
            return
        self._view.flush()
        self._next_flush = now + (time.monotonic() - now) * _EASE
        if now >= self._next_save:
            self._next_save = now + _SAVE_S
            self.save_chat()

    @on(Transcript.Scrolled)
    def _draw_follow(self) -> None:
        hint, glyphs, transcript = self.query_one("#follow", Static), self.fcd.glyphs, self.transcript
        hint.display = not transcript.following and bool(transcript.views)
        if hint.display:
            lines = transcript.new_lines
            what = f"{lines} new lines {glyphs.separator} " if lines and self.busy else ""
            hint.update(f"{glyphs.down} {what}{self.fcd.key('follow')} to follow ")

    def _draw_note(self) -> None:
        parts = []
        if self.queue:
            parts.append(f"{len(self.queue)} queued")
        if self.busy:
            parts.append(f"{self.fcd.key('stop')} stop")
        elif self._loading:
            parts.append(f"loading {self._loading}")
        elif self.prompt.editing:
            parts.append(f"editing the last question {self.fcd.glyphs.separator} {self.fcd.key('stop')} leave")
        self.meter.note(f" {self.fcd.glyphs.separator} ".join(parts))

    @on(TextArea.Changed, "#prompt")
    def _suggest(self, event: TextArea.Changed) -> None:
        self.query_one(Suggestions).show(event.text_area.text)
        if not event.text_area.text and self.prompt.editing:
            self.prompt.editing = False
            self._draw_note()

    def _to_messages(self) -> None:
        self.transcript.focus_message(0)

    @on(Prompt.Scroll)
    def _scroll(self, event: Prompt.Scroll) -> None:
        if event.pages < 0:
            self.transcript.scroll_page_up(animate=False)
        else:
            self.transcript.scroll_page_down(animate=False)

    def on_descendant_focus(self) -> None:
        place = "messages" if isinstance(self.focused, MessageView) else "prompt"
        bar = self.query_one(KeyBar)
        if place == "messages":
            bar.place("messages")
        else:
            bar.place("prompt", "chat")
