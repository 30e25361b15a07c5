"""The Chat screen: one conversation with one model."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, cast

from msgspec import UNSET
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static, TextArea

from fcd.errors import ApiError, FcdError, ModelLoadError, NotRunning
from fcd.wire.admin import DaemonEvent
from fcd.wire.chats import (
    Attachment,
    ChatMessage,
    CreateChat,
    GenerateRequest,
    Generation,
    PatchChat,
    QueuedQuestion,
    QueueRequest,
)
from tui.actions import bindings, keys_of
from tui.attachments import described
from tui.chats import Conversation, Turn, with_settings
from tui.commands import parse_command
from tui.errors import told
from tui.fits import fitting_words
from tui.generation import follow
from tui.screens.chat_actions import ChatActions
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.message import MessageView, TurnView
from tui.widgets.meter import Meter
from tui.widgets.prompt import Prompt
from tui.widgets.suggestions import Suggestions
from tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from tui.app import FcdApp
    from tui.widgets.chat_list import ChatList

FLUSH_S = 0.05
"""How often an answer that is being written is drawn."""
_EASE = 8
"""Drawing takes at most one part in this many of the time; slower drawing means drawing less often."""
_AGAIN_S = 0.5
SIDEBAR_FROM = 116
"""Columns from which the list of conversations stands beside the chat."""


class ChatScreen(ChatActions, Screen[None]):
    """Shows what the daemon holds of a conversation, follows its answers, and lets it queue what is asked meanwhile."""

    BINDINGS = bindings("chat")
    AUTO_FOCUS = "#prompt"

    def __init__(self) -> None:
        super().__init__()
        self.chat = Conversation()
        self.attachments: list[Attachment] = []
        """Files that go with the next question."""
        self.editing: ChatMessage | None = None
        """The question that stands in the prompt to be asked anew."""
        self.sidebar_wanted = True
        self._unsent: GenerateRequest | None = None
        """A question that the daemon could not take."""
        self._sending = False
        self._asking = asyncio.Lock()
        """Questions reach the daemon one after the other: a queued one needs the conversation of the one before it."""
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
    def _is_open(self) -> bool:
        """Whether there is something to draw on: the interface may be closed while the daemon is asked."""
        return len(self.query(Meter)) > 0 and len(self.query(Prompt)) > 0 and len(self.query(Transcript)) > 0

    @property
    def busy(self) -> bool:
        """A question is on its way, or an answer is being written."""
        return self._sending or bool(self.chat.info.running and self.fcd.link.state == "up")

    def compose(self) -> ComposeResult:
        yield Header("chat")
        yield Banner()
        with Horizontal(id="chat-body"), Vertical(id="chat-column"):
            yield Transcript(self.fcd.glyphs, shaded=self.fcd.shaded, notices=self._notice)
            yield Static("", id="follow")
            yield Suggestions("chat")
            yield Static("", id="attached", markup=False)
            with Horizontal(id="prompt-row"):
                yield Static(f"{self.fcd.glyphs.prompt} ", id="prompt-mark", markup=False)
                yield Prompt(
                    keys_of("prompt", self.fcd.moved_keys), edit_last=self.action_edit_last, leave=self._to_messages
                )
            yield Meter()
        yield KeyBar("prompt", "chat")

    async def on_mount(self) -> None:
        self.fcd.link_changed.subscribe(self, lambda _: self.link_changed())
        self.fcd.chats_changed.subscribe(self, self._chats_changed)
        settings = self.fcd.settings.chat
        wanted = {"temperature": settings.temperature, "top_p": settings.top_p, "max_tokens": settings.max_tokens}
        params = {name: value for name, value in wanted.items() if value is not None}
        if not settings.max_tokens:
            params.pop("max_tokens")
        await self.show_chat(Conversation(settings.model, settings.system, params))
        self.set_interval(FLUSH_S, self._tick)
        self.call_after_refresh(self._show_sidebar)

    # Which conversation

    async def open_chat(self, chat: str) -> None:
        """Show another conversation. Raises FcdError: it cannot be had."""
        conversation = Conversation()
        conversation.load(await self.fcd.link.connected().chat_tree(chat))
        await self.show_chat(conversation)

    async def show_chat(self, conversation: Conversation) -> None:
        self.workers.cancel_group(self, "follow")
        self.workers.cancel_group(self, "reload")
        self.chat = conversation
        self._unsent, self._sending = None, False
        self.leave_editing()
        self.attachments = []
        await self.transcript.show(conversation.turns(), self._welcome())
        self.prompt.remember(conversation.questions())
        self.meter.show_params(conversation.params)
        self._show_attached()
        self._mark_in_list()
        self.link_changed()
        self.follow_running()

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

    # What the daemon says

    def _chats_changed(self, event: DaemonEvent) -> None:
        if event.message == "deleted" and event.name and event.name == self.chat.id:
            self.run_worker(self.leave_deleted(), group="reload", exclusive=True)
        elif self.chat.id and event.name in ("", self.chat.id):
            self.reload()

    async def leave_deleted(self) -> None:
        """The conversation is gone: begin a new one with the same settings."""
        await self.show_chat(Conversation(self.chat.model, self.chat.system, self.chat.params))

    @work(exclusive=True, group="reload")
    async def reload(self) -> None:
        """Show what the daemon holds now: somebody else may have changed it."""
        chat = self.chat
        try:
            tree = await self.fcd.link.connected().chat_tree(chat.id)
        except ApiError as error:
            if error.status == 404 and chat is self.chat:
                await self.leave_deleted()
            return
        except FcdError:
            return
        if chat is not self.chat:
            return
        chat.load(tree)
        await self.draw_turns()
        self.follow_running()

    async def draw_turns(self) -> None:
        """The transcript as the conversation is now."""
        if not self._is_open:
            return
        await self.transcript.sync(self.chat.turns(), self._welcome())
        if not self._is_open:
            return
        self.prompt.remember_if_idle(self.chat.questions())
        self.meter.show_params(self.chat.params)
        self.link_changed()

    def follow_running(self) -> None:
        """Follow the answer that is being written, if one is."""
        running = self.chat.running
        if running is None or running.id == self.chat.followed:
            return
        self.chat.followed = running.id
        self._follow(self.chat, running)

    @work(exclusive=True, group="follow")
    async def _follow(self, chat: Conversation, message: ChatMessage) -> None:
        over, broken = False, None
        try:
            await follow(self.fcd.link.connected(), chat, message)
            over = True
        except FcdError as error:
            broken = error  # when the daemon is back, it says what became of the answer
        finally:
            chat.let_go(message)
        if chat is not self.chat:
            return
        if not self._is_open:
            return
        view = self.transcript.view_of(message.id)
        if view is not None:
            view.finish()
            if broken is not None:
                view.answer.notice(told(broken, self.fcd.key, can_start=self.fcd.link.can_start))
        self._show_context()
        self._draw_note()
        if over:
            self.call_later(self.follow_running)  # the next one may be known already
        elif self.fcd.link.state == "up":
            self.set_timer(_AGAIN_S, self.reload)  # only this connection broke

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
        if self.fcd.link.state == "up" and not self._onboarded and not self.chat.turns():
            self.onboard()

    def came_up(self) -> None:
        """The daemon is back: what became of the conversation meanwhile is its to say."""
        if self.chat.id:
            self.reload()

    def _show_context(self) -> None:
        if not self._is_open:
            return
        worker = self.fcd.link.worker_for(self.chat.model)
        answers = [turn.answer for turn in self.chat.turns() if turn.answer is not None]
        last = answers[-1] if answers else None
        used = last.prompt_tokens + last.completion_tokens if last and last.counted else 0
        self.meter.show_context(used, worker.context_length if worker else 0)

    # Loading

    @work(exclusive=True, group="preload")
    async def preload(self) -> None:
        """Load the conversation's model before it is asked for, so that the first answer comes soon."""
        model = self.chat.model
        if self.fcd.readonly or not model or model in self.fcd.failed_loads:
            return
        try:
            name = await self._load(model)
        except FcdError as error:
            self.fcd.failed_loads.add(model)
            self.notify(error.message, severity="error", markup=False)
            return
        if name != model and self.chat.model == model:
            await self.change(model=name)  # a folder's name among the models

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
        running = self.chat.running
        view = self.transcript.view_of(running.id) if running is not None else None
        if view is not None and running is not None and not running.content:
            view.answer.notice(Content.styled(f"loading {words}", "$foreground 60%") if words else None)
        self._draw_note()

    # Asking

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
        editing, self.editing = (self.editing if event.editing else None), None
        if self.busy:
            attachments, self.attachments = self.attachments, []
            self._show_attached()
            self._queue_up(self.chat, QueueRequest(text, attachments))
        elif editing is not None and editing.id in self.chat.tree.by_id:
            await self.ask(text, editing=editing)
        else:
            await self.ask(text)

    async def ask(self, question: str, *, editing: ChatMessage | None = None) -> None:
        """A new question, or another wording of one, which begins a branch."""
        attachments, self.attachments = self.attachments, []
        self._show_attached()
        request = GenerateRequest(question, attachments)
        if editing is not None:
            request.parent = editing.parent
            request.keep_attachments = editing.id if editing.attachments else ""
            self._hide_from(editing)
        await self._send(request)

    async def ask_again(self, question: ChatMessage) -> None:
        """Another answer to a question."""
        await self._send(GenerateRequest(again=question.id))

    async def send_unsent(self) -> bool:
        """Try again what the daemon could not take; whether there was something."""
        request, self._unsent = self._unsent, None
        if request is None:
            return False
        await self._send(request)
        return True

    async def _send(self, request: GenerateRequest) -> None:
        self._unsent = None
        self._sending = True
        if not request.again:
            now = self.fcd.now()
            shown = [Attachment(each.name, each.media, "", each.size) for each in request.attachments]
            question = ChatMessage("", "user", content=request.prompt, attachments=shown, created_at=now)
            waiting = ChatMessage("", "assistant", model=self.chat.model, state="waiting")
            self.chat.pending = Turn(question, waiting)
            await self.transcript.sync(self.chat.turns(), self._welcome())
            if (view := self._pending_view()) is not None:
                view.answer.notice(Content.styled(self.fcd.glyphs.ellipsis, "$foreground 50%"))
        self.transcript.follow()
        self._draw_note()
        self._submit(self.chat, request)

    @work(group="ask")
    async def _submit(self, chat: Conversation, request: GenerateRequest) -> None:
        try:
            async with self._asking:
                made = await self._generate(chat, request)
        except FcdError as error:
            if chat is self.chat:
                await self._not_taken(request, error)
            return
        finally:
            if chat is self.chat:
                self._sending = False
        chat.pending = None
        chat.add(made.chat, made.question, made.answer)
        if chat is not self.chat:
            return
        self._mark_in_list()
        await self.draw_turns()
        if not self._is_open:
            return
        self.transcript.follow()
        if self._loading:
            self._say_loading(self._loading)
        elif (view := self.transcript.view_of(made.answer.id)) is not None and not made.answer.content:
            view.answer.notice(Content.styled(self.fcd.glyphs.ellipsis, "$foreground 50%"))
        self.follow_running()

    async def _generate(self, chat: Conversation, request: GenerateRequest) -> Generation:
        client = self.fcd.link.connected()
        if not chat.id:
            chat.info = await client.create_chat(CreateChat(chat.model, chat.system, chat.params))
        made: Generation = await client.generate(chat.id, request)
        return made

    async def _not_taken(self, request: GenerateRequest, error: FcdError) -> None:
        """The question stands in the transcript with the reason, and can be sent again."""
        self._sending = False
        pending = self.chat.pending
        if isinstance(error, ApiError) and error.code == "chat_busy":
            self.chat.pending = None
            if request.prompt:
                self._queue_up(self.chat, QueueRequest(request.prompt, request.attachments))  # another was first
            await self.draw_turns()
            self.reload()
            return
        self._unsent = request
        if pending is None or pending.answer is None:
            self.notify(error.message, severity="error", markup=False)
            return
        pending.answer.state, pending.answer.error = "failed", error.message
        pending.answer.error_code = error.code if isinstance(error, ApiError) else ""
        view = self._pending_view()
        if view is not None:
            view.finish()
            view.answer.notice(told(error, self.fcd.key, can_start=self.fcd.link.can_start))
        self._draw_note()

    def _pending_view(self) -> TurnView | None:
        return next((view for view in self.transcript.views if view.turn is self.chat.pending), None)

    def _hide_from(self, question: ChatMessage) -> None:
        """Until the daemon has the new wording, nothing of the old one and what followed is shown."""
        question.chosen = False

    @work(group="ask")
    async def _queue_up(self, chat: Conversation, asked: QueueRequest) -> None:
        """Give the daemon a question that it asks when the answer is done."""
        async with self._asking:
            try:
                if not chat.id:
                    raise NotRunning("The question before it was not taken.")
                chat.queue = (await self.fcd.link.connected().queue_question(chat.id, asked)).queue
            except FcdError as error:
                self.notify(error.message, severity="error", markup=False)
                if chat is self.chat and self._is_open:
                    self._put_back([QueuedQuestion("", asked.prompt, asked.attachments)])
                return
        self._draw_note()

    @work(group="ask")
    async def take_back(self, chat: Conversation, question: str = "") -> None:
        """What waits in the daemon comes back to the prompt: one question, or all of them."""
        try:
            taken = (await self.fcd.link.connected().take_back(chat.id, question)).queue
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
            return
        chat.queue = [each for each in chat.queue if question and each.id != question]
        if self._is_open:
            self._put_back(taken)

    def _put_back(self, questions: list[QueuedQuestion]) -> None:
        if questions:
            words = [each.prompt for each in questions]
            self.prompt.put("\n".join([*words, *([self.prompt.text] if self.prompt.text else [])]))
            self.attachments = [*(file for each in questions for file in each.attachments), *self.attachments]
            self._show_attached()
        self._draw_note()

    def stop_answer(self) -> None:
        """Stop what is being written, here or for another."""
        if self.chat.id:
            self._stop(self.chat)

    @work(exclusive=True, group="stop")
    async def _stop(self, chat: Conversation) -> None:
        """Stop it; what waited for it comes back to the prompt, unless another conversation is shown by then."""
        try:
            tree = await self.fcd.link.connected().stop_chat(chat.id)
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
            return
        if tree.queue and chat is self.chat:
            self.take_back(chat)

    async def change(self, **changes: Any) -> None:
        """Other settings: at once here, and in the daemon."""
        self.chat.info = with_settings(self.chat.info, **changes)
        self.meter.show_params(self.chat.params)
        self.link_changed()
        if self.chat.id:
            try:
                patch = {name: changes.get(name, UNSET) for name in ("model", "system", "params")}
                await self.fcd.link.connected().patch_chat(self.chat.id, PatchChat(**patch))
            except FcdError as error:
                self.notify(f"The change is not kept. {error.message}", severity="error", markup=False)

    # Drawing

    def _notice(self, turn: Turn) -> Content | None:
        """What stands below an answer that is over."""
        answer = turn.answer
        if answer is None or answer.is_running:
            return None
        if answer.state == "failed" and answer.error:
            error: FcdError = ApiError(502, answer.error, code=answer.error_code) if answer.error_code else (
                NotRunning(answer.error)
            )
            return told(error, self.fcd.key, can_start=self.fcd.link.can_start)
        if answer.state == "interrupted":
            words = "The daemon ended while this was being written; what came is kept."
            again = (self.fcd.key("retry"), "bold $text-accent"), (" answer again", "$foreground 80%")
            return Content.assemble((f"{words}\n", "$text-warning"), *again)
        if not answer.content:
            words = "stopped" if answer.state == "stopped" else "The model said nothing."
            return Content.styled(words, "$foreground 60%")
        return None

    _next_flush = 0.0

    def _tick(self) -> None:
        """Draw what came, 20 times a second, less often when drawing is slow."""
        if not self.chat.followed:
            return
        self._draw_follow()
        now = time.monotonic()
        if now < self._next_flush:
            return
        view = self.transcript.view_of(self.chat.followed)
        if view is not None:
            view.flush()
            self._next_flush = now + (time.monotonic() - now) * _EASE

    @on(Transcript.Scrolled)
    def _draw_follow(self) -> None:
        hint, glyphs, transcript = self.query_one("#follow", Static), self.fcd.glyphs, self.transcript
        hint.display = not transcript.following and bool(transcript.views)
        if hint.display:
            lines = transcript.new_lines
            what = f"{lines} new lines {glyphs.separator} " if lines and self.busy else ""
            hint.update(f"{glyphs.down} {what}{self.fcd.key('follow')} to follow ")

    def _draw_note(self) -> None:
        if not self._is_open:
            return
        parts = []
        if self.chat.queue:
            back = f", {self.fcd.glyphs.up} takes one back" if not self.prompt.text else ""
            parts.append(f"{len(self.chat.queue)} queued{back}")
        if self.busy:
            parts.append(f"{self.fcd.key('stop')} stop")
        elif self._loading:
            parts.append(f"loading {self._loading}")
        elif self.prompt.editing:
            last = self.editing is not None and self.editing is self.chat.last_question()
            what = "the last question" if last else "an earlier question"
            parts.append(f"editing {what} {self.fcd.glyphs.separator} {self.fcd.key('stop')} leave")
        self.meter.note(f" {self.fcd.glyphs.separator} ".join(parts))

    def _show_attached(self) -> None:
        line = self.query_one("#attached", Static)
        line.display = bool(self.attachments)
        names = "   ".join(described(each) for each in self.attachments)
        line.update(f" + {names}   /detach leaves them out")

    def leave_editing(self) -> None:
        self.prompt.editing, self.editing = False, None
        self._draw_note()

    @on(TextArea.Changed, "#prompt")
    def _suggest(self, event: TextArea.Changed) -> None:
        self.query_one(Suggestions).show(event.text_area.text)
        if self.chat.queue:
            self._draw_note()  # the key that takes one back needs an empty prompt
        if not event.text_area.text and self.prompt.editing:
            self.leave_editing()

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

    # The list beside it

    def on_resize(self) -> None:
        self._show_sidebar()

    def _show_sidebar(self) -> None:
        from tui.widgets.chat_list import ChatList

        shown = self.sidebar_wanted and self.size.width >= SIDEBAR_FROM
        found = self.query(ChatList)
        if found:
            found.first().display = shown
            if shown:
                found.first().refresh_rows()
        elif shown:
            chats = ChatList(self.open_from_list, self.to_prompt, id="sidebar")
            chats.current = self.chat.id
            self.query_one("#chat-body").mount(chats, before=0)

    @property
    def sidebar(self) -> ChatList | None:
        """The list, while it stands beside the chat."""
        from tui.widgets.chat_list import ChatList

        found = self.query(ChatList)
        return found.first() if found and found.first().display else None

    def _mark_in_list(self) -> None:
        if (sidebar := self.sidebar) is not None:
            sidebar.mark(self.chat.id)

    def to_prompt(self) -> None:
        self.set_focus(self.prompt)

    @work(exclusive=True, group="open")
    async def open_from_list(self, chat: str) -> None:
        """Show a conversation that was chosen in the list."""
        try:
            await self.open_chat(chat)
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
        self.to_prompt()
