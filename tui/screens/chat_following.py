"""Shows a conversation of the daemon's, and follows what becomes of it."""

from __future__ import annotations

import time
from contextlib import suppress

from textual import work

from fcd.errors import ApiError, FcdError
from fcd.wire.admin import DaemonEvent
from fcd.wire.chats import ChatMessage
from tui.chats import Conversation
from tui.errors import told
from tui.generation import follow
from tui.screens.chat_loading import ChatLoading
from tui.widgets.chrome import Header

_EASE = 8
"""Drawing takes at most one part in this many of the time; slower drawing means drawing less often."""
_AGAIN_S = 0.5


class ChatFollowing(ChatLoading):
    """Which conversation is shown, and what the daemon says of it."""

    _next_flush = 0.0
    _left = ""
    """The conversation that was deleted while it was shown: it comes back here, unless something else began."""

    async def open_chat(self, chat: str) -> None:
        """Show another conversation. Raises FcdError: it cannot be had."""
        conversation = Conversation()
        conversation.load(await self.fcd.link.connected().chat_tree(chat))
        await self.show_chat(conversation)

    async def show_chat(self, conversation: Conversation) -> None:
        self.workers.cancel_group(self, "follow")
        self.workers.cancel_group(self, "reload")
        self.chat = conversation
        self._left = self._warmed = ""
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

    def _chats_changed(self, event: DaemonEvent) -> None:
        if event.message == "deleted" and event.name and event.name == self.chat.id:
            self.leave_deleted(event.name)
        elif event.message == "created" and event.name and event.name == self._left:
            self._back_to(event.name)
        elif self.chat.id and event.name in ("", self.chat.id):
            self.reload()

    # Not in the group of reloads: showing another conversation ends those.
    @work(exclusive=True, group="leave")
    async def leave_deleted(self, chat: str) -> None:
        """The conversation is gone: begin a new one with the same settings."""
        if chat == self.chat.id:
            await self.show_chat(Conversation(self.chat.model, self.chat.system, self.chat.params))
            self._left = chat

    @work(exclusive=True, group="leave")
    async def _back_to(self, chat: str) -> None:
        """Its deletion was taken back, and nothing was begun meanwhile."""
        if not (self.busy or self.chat.id or self.chat.pending or self.attachments):
            with suppress(FcdError):
                await self.open_chat(chat)

    @work(exclusive=True, group="reload")
    async def reload(self) -> None:
        """Show what the daemon holds now: somebody else may have changed it."""
        chat = self.chat
        try:
            tree = await self.fcd.link.connected().chat_tree(chat.id)
        except ApiError as error:
            if error.status == 404:
                self.leave_deleted(chat.id)
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
        if self.fcd.link.state != "up":
            self._warmed = ""
        elif worker is not None:
            self._warmed = self.chat.model
        elif self._warmed != self.chat.model and not self._loading and not self.busy:
            self._warmed = self.chat.model
            self.preload()
        if self.fcd.link.state == "up" and not self._onboarded and not self.chat.turns():
            self.onboard()

    def came_up(self) -> None:
        """The daemon is back: what became of the conversation meanwhile is its to say."""
        if self.chat.id:
            self.reload()

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
