"""The Chat screen: one conversation with one model."""

from __future__ import annotations

from textual import on, work
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.widgets import Static, TextArea

from fcd.errors import FcdError
from fcd.wire.chats import QueueRequest
from tui.actions import bindings, keys_of
from tui.chats import Conversation
from tui.commands import parse_command
from tui.screens.chat_actions import ChatActions
from tui.screens.chat_asking import ChatAsking
from tui.widgets.chrome import Banner, Header, KeyBar
from tui.widgets.message import MessageView
from tui.widgets.meter import Meter
from tui.widgets.prompt import Prompt
from tui.widgets.suggestions import Suggestions
from tui.widgets.transcript import Transcript

FLUSH_S = 0.05
"""How often an answer that is being written is drawn."""
SIDEBAR_FROM = 116
"""Columns from which the list of conversations stands beside the chat."""


class ChatScreen(ChatActions, ChatAsking):
    """Shows what the daemon holds of a conversation, follows its answers, and lets it queue what is asked meanwhile."""

    BINDINGS = bindings("chat")
    AUTO_FOCUS = "#prompt"

    def compose(self) -> ComposeResult:
        yield Header("chat")
        yield Banner()
        with Horizontal(id="chat-body"), Vertical(id="chat-column"):
            yield Transcript(self.fcd.glyphs, shaded=self.fcd.shaded, notices=self._notice)
            yield Static("", id="follow")
            yield Suggestions("chat")
            yield Static("", id="queued", markup=False)
            yield Static("", id="attached", markup=False)
            with Horizontal(id="prompt-row"):
                yield Static(f"{self.fcd.glyphs.prompt} ", id="prompt-mark", markup=False)
                yield Prompt(
                    keys_of("prompt", self.fcd.moved_keys),
                    edit_last=self.action_edit_last,
                    leave=self._to_messages,
                    takes_images=True,
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

    @on(Transcript.Scrolled)
    def _scrolled(self) -> None:
        self._draw_follow()

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

    @work(exclusive=True, group="open")
    async def open_from_list(self, chat: str) -> None:
        """Show a conversation that was chosen in the list."""
        try:
            await self.open_chat(chat)
        except FcdError as error:
            self.notify(error.message, severity="error", markup=False)
        self.to_prompt()
