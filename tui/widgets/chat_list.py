"""The conversations that the daemon keeps: a column beside the chat where there is room, a window elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from fcd.errors import FcdError
from fcd.wire.chats import ChatHit, ChatInfo

if TYPE_CHECKING:
    from tui.app import FcdApp

MOST_SHOWN = 300
UNDO_S = 5.0
_DEBOUNCE_S = 0.12

KEYS = "enter open  ^r name  ^t pin  del delete  ^z undo  ^x export  ^o import"


class ChatList(Vertical):
    """A field that searches everything that was said, and what it found. Every change goes to the daemon at once."""

    BINDINGS = [
        Binding("down", "move(1)", priority=True),
        Binding("up", "move(-1)", priority=True),
        Binding("pagedown", "move(8)", priority=True),
        Binding("pageup", "move(-8)", priority=True),
        Binding("ctrl+r", "rename", priority=True),
        Binding("ctrl+t", "pin", priority=True),
        Binding("delete,ctrl+d", "delete", priority=True),
        Binding("ctrl+z", "undo", priority=True),
        Binding("ctrl+x", "export", priority=True),
        Binding("ctrl+o", "import", priority=True),
    ]

    def __init__(self, opened: Callable[[str], object], closed: Callable[[], object], *, id: str | None = None) -> None:
        """
        Args:
            opened: a conversation was chosen; gets its id.
            closed: esc.
            id: of the widget.
        """
        super().__init__(id=id, classes="chat-list")
        self._choose_chat = opened
        self._leave_list = closed
        self.rows: list[ChatInfo] = []
        self.current = ""
        """The conversation that is open: it is marked."""

    @property
    def fcd(self) -> FcdApp:
        return cast("FcdApp", self.app)

    def compose(self) -> ComposeResult:
        yield Input(placeholder="search what was said", compact=True)
        yield OptionList(compact=True)
        yield Static("", classes="dialog-hint", markup=False)

    def on_mount(self) -> None:
        self.fcd.chats_changed.subscribe(self, lambda _: self.refresh_rows())
        self.fcd.link_changed.subscribe(self, lambda _: self._came_up())
        self.refresh_rows()

    def _came_up(self) -> None:
        if self.fcd.link.state == "up" and not self.rows:
            self.refresh_rows()

    def on_descendant_focus(self) -> None:
        self.add_class("-used")  # its keys are told only then

    def on_descendant_blur(self) -> None:
        self.remove_class("-used")

    @property
    def _is_open(self) -> bool:
        """Whether there is something to draw on: the interface may be closed while the daemon is asked."""
        return len(self.query(Input)) > 0 and len(self.query(OptionList)) > 0 and len(self.query(Static)) > 0

    @property
    def words(self) -> str:
        return self.query_one(Input).value.strip()

    def highlighted(self) -> ChatInfo | None:
        index = self.query_one(OptionList).highlighted
        return self.rows[index] if index is not None and index < len(self.rows) else None

    def mark(self, current: str) -> None:
        """Another conversation is open."""
        if current != self.current:
            self.current = current
            self.refresh_rows()

    @work(exclusive=True, group="rows")
    async def refresh_rows(self, pause: float = 0.0) -> None:
        """Ask the daemon what there is."""
        if not self.display or self.fcd.link.state != "up":
            return
        await asyncio.sleep(pause)
        if not self._is_open:
            return
        try:
            client = self.fcd.link.connected()
            if self.words:
                found = await client.search_chats(self.words)
                self._fill([hit.chat for hit in found.hits], {hit.chat.id: hit for hit in found.hits})
            else:
                self._fill((await client.chats(MOST_SHOWN)).chats, {})
        except FcdError as error:
            self.hint(error.message)

    def hint(self, words: str = "") -> None:
        """What stands below the list."""
        if not self._is_open:
            return
        if not words:
            words = "No chat has these words." if self.words and not self.rows else KEYS
        self.query_one(Static).update(words)

    def _fill(self, rows: list[ChatInfo], hits: dict[str, ChatHit]) -> None:
        if not self._is_open:
            return
        options = self.query_one(OptionList)
        before = self.highlighted()
        self.rows = rows
        options.clear_options()
        options.add_options(Option(self._row(info, hits.get(info.id)), id=info.id) for info in rows)
        at = next((index for index, info in enumerate(rows) if before is not None and info.id == before.id), 0)
        if rows:
            options.highlighted = at
        self.hint()

    def _row(self, info: ChatInfo, hit: ChatHit | None) -> Content:
        glyphs = self.fcd.glyphs
        mark = glyphs.ellipsis[0] if info.running else "*" if info.pinned else " "
        style = "bold" if info.id == self.current else ""
        excerpt = f"  {hit.excerpt}" if hit is not None and hit.excerpt and hit.message else ""
        return Content.assemble(
            (f"{mark} ", "$text-accent"),
            (info.title or "(empty)", style),
            (f"  {_when(info.updated_at, self.fcd.now())}", "$foreground 50%"),
            (excerpt, "$foreground 60%"),
        )

    @on(Input.Changed)
    def _search(self) -> None:
        self.refresh_rows(_DEBOUNCE_S)

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    async def _open(self, event: Input.Submitted | OptionList.OptionSelected) -> None:
        event.stop()
        if isinstance(event, Input.Submitted) and self.words:
            await self.refresh_rows().wait()  # enter may come before what was found
        info = self.highlighted()
        if info is not None:
            self._choose_chat(info.id)

    def action_move(self, step: int) -> None:
        options = self.query_one(OptionList)
        if options.option_count:
            at = (options.highlighted or 0) + step
            options.highlighted = min(max(at, 0), options.option_count - 1)

    def key_escape(self) -> None:
        self._leave_list()

    # What is done to the highlighted one

    def action_rename(self) -> None:
        self._with(self.fcd.chat_work.rename)

    def action_pin(self) -> None:
        self._with(self.fcd.chat_work.pin)

    def action_delete(self) -> None:
        self._with(self.fcd.chat_work.delete)

    def action_export(self) -> None:
        self._with(self.fcd.chat_work.export)

    def action_undo(self) -> None:
        self.fcd.chat_work.undo()

    def action_import(self) -> None:
        self.fcd.chat_work.take_in()

    def _with(self, work: Callable[[ChatInfo], object]) -> None:
        info = self.highlighted()
        if info is not None:
            work(info)


class ChatsDialog(ModalScreen[str | None]):
    """The list as a window. Gives the conversation that was chosen."""

    BINDINGS = [Binding("escape", "dismiss(None)", "close")]

    def __init__(self, current: str = "") -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label("Conversations", classes="dialog-title")
            chats = ChatList(self.dismiss, lambda: self.dismiss(None))
            chats.current = self._current
            yield chats


def _when(at: float, now: float) -> str:
    """`14:05` today, `03 Nov` before."""
    then = time.localtime(at)
    today = time.localtime(now)
    same = (then.tm_year, then.tm_yday) == (today.tm_year, today.tm_yday)
    return time.strftime("%H:%M" if same else "%d %b", then)
