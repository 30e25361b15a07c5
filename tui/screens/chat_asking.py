"""Questions on their way to the daemon: sent, queued, taken back, stopped."""

from __future__ import annotations

from textual import work
from textual.content import Content

from fcd.errors import ApiError, FcdError, NotRunning
from fcd.wire.chats import (
    ChatMessage,
    CreateChat,
    GenerateRequest,
    Generation,
    QueuedQuestion,
    QueueRequest,
)
from tui.chats import Conversation, Turn
from tui.errors import told
from tui.screens.chat_following import ChatFollowing
from tui.widgets.message import TurnView


class ChatAsking(ChatFollowing):
    """What is asked reaches the daemon in order, and nothing of it is lost when the daemon cannot take it."""

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
            shown = [each.without_data() for each in request.attachments]
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

    @work(exclusive=True, group="picker")
    async def action_queue(self) -> None:
        """What waits: any of it back to the prompt, or removed."""
        from tui.widgets.shelf import Rows, Shelf

        chat = self.chat
        if not chat.queue:
            self.notify("Nothing waits. What is asked while an answer is written does.", markup=False)
            return

        async def remove(question: str) -> Rows:
            await self.fcd.link.connected().take_back(chat.id, question)
            chat.queue = [each for each in chat.queue if each.id != question]
            self._draw_note()
            return self.queue_rows()

        hint = "enter back to the prompt   del remove it   esc close"
        self.queue_shelf = Shelf("Waits for the answer", self.queue_rows(), remove=remove, hint=hint)
        chosen = await self.fcd.push_screen_wait(self.queue_shelf)
        self.queue_shelf = None
        self.set_focus(self.prompt)
        if chosen is not None:
            self.take_back(chat, chosen)

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
