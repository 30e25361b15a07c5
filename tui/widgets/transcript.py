"""The conversation: a window of turns on a longer chat, following its end until a person scrolls up."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widget import Widget

from tui.actions import bindings
from tui.chats import Turn
from tui.glyphs import Glyphs
from tui.widgets.message import MessageView, TurnView
from tui.widgets.uniform import Uniform

WINDOW = 10
"""Turns (two messages each) that are mounted at first, and kept while following the end."""
STEP = 6
"""Older turns that are mounted when a person scrolls to the top."""


class Transcript(VerticalScroll, can_focus=False):
    """Shows turns. `turns` is the chat's own list; only a window of it is mounted."""

    BINDINGS = bindings("messages")

    class Scrolled(Message):
        """The end came into sight or went out of it."""

    def __init__(self, glyphs: Glyphs, *, shaded: bool) -> None:
        super().__init__(id="transcript")
        self._glyphs = glyphs
        self._shaded = shaded
        self._turns: Sequence[Turn] = ()
        self._first = 0
        self._loading = False
        self._height_seen = 0

    def compose(self) -> ComposeResult:
        yield Uniform(id="turns")

    def on_mount(self) -> None:
        self.anchor()

    @property
    def _column(self) -> Uniform:
        return self.query_one("#turns", Uniform)

    @property
    def views(self) -> list[TurnView]:
        return list(self._column.query_children(TurnView).results(TurnView))

    @property
    def following(self) -> bool:
        return self.max_scroll_y - self.scroll_y < 1

    @property
    def new_lines(self) -> int:
        """Rows that came since the end was last in sight."""
        return max(0, self.virtual_size.height - self._height_seen)

    async def show(self, turns: Sequence[Turn], empty: Widget) -> None:
        """Another conversation; `empty` is shown while it has no turns."""
        self._turns = turns
        self._first = max(0, len(turns) - WINDOW)
        await self._column.remove_children()
        views: list[Widget] = [self._view(turn) for turn in turns[self._first :]]
        await self._column.mount(*(views or [empty]))
        self.anchor()

    def _view(self, turn: Turn, asked_at: float = 0.0) -> TurnView:
        return TurnView(turn, self._glyphs, shaded=self._shaded, asked_at=asked_at)

    async def add(self, turn: Turn, asked_at: float) -> TurnView:
        """Show a new turn at the end and follow it."""
        if not self.views:
            await self._column.remove_children()
        view = self._view(turn, asked_at)
        await self._column.mount(view)
        self.anchor()
        await self._prune()
        return view

    def view_of(self, turn: Turn) -> TurnView | None:
        return next((view for view in self.views if view.turn is turn), None)

    async def _prune(self) -> None:
        surplus = self.views[: max(0, len(self.views) - WINDOW - STEP)]
        if surplus and self.following:
            self._first += len(surplus)
            await self._column.remove_children(surplus)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.following:
            self._height_seen = self.virtual_size.height
        if new_value < old_value and new_value < 3 and self._first > 0 and not self._loading:
            self._loading = True
            self.call_next(self._load_older)
        self.post_message(self.Scrolled())

    async def _load_older(self) -> None:
        views = [self._view(turn) for turn in self._turns[max(0, self._first - STEP) : self._first]]
        self._first = max(0, self._first - STEP)
        before = self.virtual_size.height
        await self._column.mount(*views, before=0)

        def keep_place() -> None:
            self.scroll_to(y=self.scroll_y + self.virtual_size.height - before, animate=False, immediate=True)
            self._loading = False

        self.call_after_refresh(keep_place)

    def follow(self) -> None:
        """Go to the end and stay there."""
        self.anchor()
        self._height_seen = self.virtual_size.height

    def messages(self) -> list[MessageView]:
        return list(self.query(MessageView).results(MessageView))

    def focus_message(self, step: int) -> None:
        """Focus the message `step` away from the focused one; the last when none is."""
        messages = self.messages()
        if not messages:
            return
        focused = self.screen.focused
        index = messages.index(focused) + step if isinstance(focused, MessageView) else len(messages) - 1
        message = messages[min(max(index, 0), len(messages) - 1)]
        self.screen.set_focus(message, scroll_visible=False)
        self.scroll_to_widget(message, animate=False, top=message.size.height > self.size.height)
