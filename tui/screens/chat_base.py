"""What every part of the Chat screen stands on: its state, its widgets, and the lines that tell of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from fcd.errors import ApiError, FcdError, NotRunning
from fcd.wire.chats import Attachment, ChatMessage, GenerateRequest, QueuedQuestion
from tui.chats import Conversation, Turn
from tui.errors import told
from tui.widgets.meter import Meter
from tui.widgets.prompt import Prompt
from tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from tui.app import FcdApp
    from tui.widgets.chat_list import ChatList
    from tui.widgets.shelf import Shelf

_QUEUE_ROWS = 3


class ChatBase(Screen[None]):
    """State and drawing; what reaches the daemon stands on it."""

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
        self._warmed = ""
        """The model that was loaded for this conversation: what is stopped after that stays so until it is asked."""
        self.queue_shelf: Shelf | None = None
        """The list of what waits, while it is open."""
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

    def link_changed(self) -> None:
        """The daemon, a worker, the conversation's model or its settings changed."""
        raise NotImplementedError

    # Drawing

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

    def _notice(self, turn: Turn) -> Content | None:
        """What stands below an answer that is over."""
        answer = turn.answer
        if answer is None or answer.is_running:
            return None
        if answer.state == "failed" and answer.error:
            error: FcdError = (
                ApiError(502, answer.error, code=answer.error_code) if answer.error_code else (NotRunning(answer.error))
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

    def _show_context(self) -> None:
        if not self._is_open:
            return
        worker = self.fcd.link.worker_for(self.chat.model)
        used, counted = self.chat.context()
        self.meter.show_context(used, worker.context_length if worker else 0, counted=counted)

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
        self._draw_queue()
        parts = []
        if self.chat.queue:
            back = f", {self.fcd.glyphs.up} takes one back" if not self.prompt.text else f", {self.fcd.key('queue')}"
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

    def _draw_queue(self) -> None:
        """What waits, as much as leaves the conversation its room."""
        waiting, line = self.chat.queue, self.query_one("#queued", Static)
        line.display = bool(waiting)
        if waiting:
            rows = [f"   {at}  {_short(each)}" for at, each in enumerate(waiting[:_QUEUE_ROWS], 1)]
            more = len(waiting) - _QUEUE_ROWS
            rows += [f"   and {more} more: {self.fcd.key('queue')}"] if more > 0 else []
            words = "\n".join(rows)
            if words != str(line.content):
                line.update(words)
        if self.queue_shelf is not None:
            self.queue_shelf.put(self.queue_rows())

    def queue_rows(self) -> list[tuple[str, Content]]:
        """What waits, for a list to choose from."""
        return [(each.id, Content(_short(each))) for each in self.chat.queue]

    def leave_editing(self) -> None:
        self.prompt.editing, self.editing = False, None
        self._draw_note()

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


def _short(question: QueuedQuestion) -> str:
    """One line of it, with how many files go with it."""
    files = f"  +{len(question.attachments)}" if question.attachments else ""
    return " ".join(question.prompt.split())[:200] + files
