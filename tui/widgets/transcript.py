"""The conversation: a window of turns on a longer chat, following its end until a person scrolls up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.message import Message
from textual.widget import Widget

from tui.actions import bindings
from tui.chats import Turn
from tui.glyphs import Glyphs
from tui.widgets.message import MessageView, Notices, TurnView, no_notice
from tui.widgets.scrolling import Scrolling
from tui.widgets.uniform import Uniform

FEWEST = 2
"""Turns (two messages each) that are mounted at least at first, and kept while following the end."""
_SCREENS = 1.5
"""How much is mounted at first, by a guess at its rows that is rather too low."""
_TURN_ROWS = 4
"""Rows of a turn beside its texts."""
STEP = 6
"""Older turns that are mounted when a person scrolls to the top."""


class Transcript(Scrolling, can_focus=False):
    """Shows turns; only a window of them is mounted. `notices` says what stands below an answer."""

    BINDINGS = bindings("messages")

    class Scrolled(Message):
        """The end came into sight or went out of it."""

    def __init__(self, glyphs: Glyphs, *, shaded: bool, notices: Notices = no_notice) -> None:
        super().__init__(id="transcript")
        self._notices = notices
        self._glyphs = glyphs
        self._shaded = shaded
        self._turns: Sequence[Turn] = ()
        self._first = 0
        self._loading = False
        self._height_seen = 0
        self._drawing = asyncio.Lock()

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

    def _window(self, turns: Sequence[Turn]) -> int:
        """How many turns at the end are to be mounted, so that the screen is full."""
        size = self.size or self.app.size
        width, height = max(20, size.width), size.height
        rows, count = 0, 0
        for turn in reversed(turns):
            if count >= FEWEST and rows >= height * _SCREENS:
                break
            rows += _TURN_ROWS + guessed_rows(turn.asked, width) + guessed_rows(turn.said, width)
            count += 1
        return count

    @property
    def following(self) -> bool:
        return self.max_scroll_y - self.scroll_y < 1

    @property
    def new_lines(self) -> int:
        """Rows that came since the end was last in sight."""
        return max(0, self.virtual_size.height - self._height_seen)

    async def show(self, turns: Sequence[Turn], empty: Widget) -> None:
        """Another conversation; `empty` is shown while it has no turns."""
        async with self._drawing:
            await self._show(turns, empty)

    async def _show(self, turns: Sequence[Turn], empty: Widget) -> None:
        self._turns = turns
        self._first = len(turns) - self._window(turns)
        await self._column.remove_children()
        views: list[Widget] = [self._view(turn) for turn in turns[self._first :]]
        await self._column.mount(*(views or [empty]))
        self.anchor()
        self.call_after_refresh(self._fill)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        """The guess was too high, or the screen has become higher: what cannot be scrolled has nothing to load more."""
        if self._first > 0 and self.max_scroll_y == 0 and not self._loading:
            self._loading = True
            self.call_next(self._load_older)

    def _view(self, turn: Turn) -> TurnView:
        return TurnView(turn, self._glyphs, shaded=self._shaded, notices=self._notices)

    async def sync(self, turns: Sequence[Turn], empty: Widget) -> None:
        """The same conversation, perhaps with other messages: what stands already is left as it is."""
        async with self._drawing:
            await self._sync(turns, empty)

    async def _sync(self, turns: Sequence[Turn], empty: Widget) -> None:
        views = self.views
        if not views or not turns or len(turns) <= self._first:
            await self._show(turns, empty)
            return
        following = self.following
        shown = list(turns[self._first :])
        keep = next(
            (at for at, (view, turn) in enumerate(zip(views, shown, strict=False)) if not _goes_on(view.turn, turn)),
            min(len(views), len(shown)),
        )
        self._turns = turns
        for view, turn in zip(views[:keep], shown[:keep], strict=True):
            view.update(turn)
        if views[keep:]:
            await self._column.remove_children(views[keep:])
        if shown[keep:]:
            await self._column.mount(*(self._view(turn) for turn in shown[keep:]))
        if following:
            self.anchor()
        await self._prune()

    def view_of(self, message: str) -> TurnView | None:
        """The turn that has this message, if it is mounted."""
        return next((view for view in self.views if message in view.turn.key), None) if message else None

    async def _prune(self) -> None:
        surplus = self.views[: max(0, len(self.views) - self._window(self._turns))]
        if len(surplus) > STEP and self.following:
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
            self._fill()

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


def guessed_rows(text: str, width: int) -> int:
    """At least as many as the text needs, nearly: lines of one paragraph are joined, and marks are not drawn."""
    return len(text) // width + text.count("\n\n") + text.count("\n") // 4


def _goes_on(drawn: Turn, now: Turn) -> bool:
    """Whether a view can go on showing: the same question, or one that the daemon has just taken."""
    if drawn.question is None or now.question is None:
        return drawn.key == now.key
    return drawn.question.id == now.question.id or (not drawn.question.id and drawn.asked == now.asked)
