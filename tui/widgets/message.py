"""A question and its answer, as the transcript shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.content import Content
from textual.errors import NoWidget
from textual.widgets import Static

from fcd.attachments import described
from fcd.chattree import Place
from fcd.wire.chats import ChatMessage
from tui import formats
from tui.chats import Turn
from tui.glyphs import Glyphs
from tui.widgets.uniform import Uniform

if TYPE_CHECKING:
    from tui.widgets.body import Body

Notices = Callable[[Turn], Content | None]
"""What stands below an answer that is over: why it failed or ended early."""

_STATES = {"stopped": "stopped", "cut": "length limit", "failed": "failed", "interrupted": "interrupted"}


def no_notice(turn: Turn) -> Content | None:
    return None


class MessageView(Uniform, can_focus=True):
    """One side of a turn: a head, a body, and a notice where something is to be told."""

    def __init__(self, glyphs: Glyphs, *, question: bool, shaded: bool) -> None:
        super().__init__(classes="message -question" if question else "message -answer")
        self.is_question = question
        self.glyphs = glyphs
        self._shaded = shaded
        self.next_code = 0

    def compose(self) -> ComposeResult:
        from tui.widgets.body import Body  # parsing and colours: not needed for the first frame

        yield Static(classes="head")
        if not self.is_question:
            yield Static(classes="fold")
            yield Body(self.glyphs, classes="thoughts", shaded=False)
        yield Body(self.glyphs, classes="text", shaded=self._shaded)
        yield Static(classes="notice")

    def on_resize(self) -> None:
        if not self.is_question:
            self.turn_view.show_head()  # its figures stand at the right

    @property
    def body(self) -> Body:
        return cast("Body", self.query_one(".text"))

    @property
    def turn_view(self) -> TurnView:
        assert isinstance(self.parent, TurnView)
        return self.parent

    @property
    def message(self) -> ChatMessage | None:
        turn = self.turn_view.turn
        return turn.question if self.is_question else turn.answer

    def notice(self, content: Content | None) -> None:
        """Tell something below the text, or nothing; while it is being made, its turn draws that in the end."""
        for notice in self.query(".notice").results(Static):
            notice.update(content or "")
            notice.display = content is not None


class TurnView(Uniform):
    """Both sides of a turn."""

    def __init__(self, turn: Turn, glyphs: Glyphs, *, shaded: bool = True, notices: Notices = no_notice) -> None:
        super().__init__(classes="turn")
        self.turn = turn
        self.glyphs = glyphs
        self.question = MessageView(glyphs, question=True, shaded=shaded)
        self.answer = MessageView(glyphs, question=False, shaded=shaded)
        self._notices = notices
        self._open = False
        self._drawn: tuple[str, str] | None = None
        self._written = 0
        self._thought = 0
        self._finished = False

    def compose(self) -> ComposeResult:
        yield self.question
        yield self.answer

    def on_mount(self) -> None:
        self.show()

    @property
    def _is_ready(self) -> bool:
        """Whether there is something to draw on."""
        return bool(self.answer.query(".notice"))

    @property
    def _thoughts(self) -> Body:
        return cast("Body", self.answer.query_one(".thoughts"))

    def update(self, turn: Turn) -> None:
        """Show this turn; what stands already is left as it is."""
        self.turn = turn
        if not self._is_ready:
            return
        answer = turn.answer
        shorter = answer is not None and (len(answer.content) < self._written or len(answer.reasoning) < self._thought)
        running = answer is not None and answer.is_running
        if turn.key != self._drawn or shorter or (running and self._finished):
            self.show()
            return
        self._show_question_head()
        if running:
            self.flush()
        else:
            self.finish()

    def show(self) -> None:
        """Draw it anew."""
        question, answer = self.turn.question, self.turn.answer
        self._drawn = self.turn.key
        self.question.display = question is not None
        if question is not None:
            self.question.body.show_plain(question.content)
            self.question.body.display = bool(question.content)
            names = "   ".join(described(attached) for attached in question.attachments)
            self.question.notice(Content.styled(f"+ {names}", "$foreground 60%") if names else None)
            self._show_question_head()
        self.answer.display = answer is not None
        self.answer.notice(None)
        self.answer.next_code = 0
        text, thoughts = (answer.content, answer.reasoning) if answer is not None else ("", "")
        self._written, self._thought, self._finished = len(text), len(thoughts), False
        if answer is not None and answer.is_running:
            self._thoughts.show("")
            self.answer.body.show("")
            self._thoughts.feed(thoughts)
            self.answer.body.feed(text)
        else:
            self._thoughts.show(thoughts)
            self.answer.body.show(text)
            self._conclude()
        self.answer.body.display = bool(text)
        self.show_head()

    def flush(self) -> None:
        """Draw what came since the last flush."""
        answer = self.turn.answer
        if answer is None or not self._is_ready:
            return
        if len(answer.content) < self._written or len(answer.reasoning) < self._thought:
            self.show()
            return
        if len(answer.reasoning) > self._thought:
            self._thoughts.feed(answer.reasoning[self._thought :])
            self._thought = len(answer.reasoning)
        if len(answer.content) > self._written:
            if not self._written:
                self._thoughts.finish()
                self.answer.notice(None)
            self.answer.body.display = True
            self.answer.body.feed(answer.content[self._written :])
            self._written = len(answer.content)
        if self._head_is_seen or not answer.content:
            self.show_head()

    @property
    def _head_is_seen(self) -> bool:
        """An update out of sight makes the whole screen be arranged anew."""
        head = self.answer.query_one(".head")
        try:
            return bool(self.screen.find_widget(head).visible_region)
        except NoWidget:
            return True

    def finish(self) -> None:
        """The answer is complete, or as complete as it will be."""
        if not self._is_ready:
            return  # it is drawn whole once it can be
        self.flush()
        if not self._finished:
            self._thoughts.finish()
            self.answer.body.finish()
        self._conclude()
        self.show_head()

    def _conclude(self) -> None:
        self._finished = True
        self.answer.notice(self._notices(self.turn))

    def toggle_thoughts(self) -> None:
        self._open = not self._open
        self.show_head()

    def _show_question_head(self) -> None:
        question = self.turn.question
        if question is None:
            return
        when = time.strftime("  %H:%M", time.localtime(question.created_at)) if question.created_at else ""
        place = _place(self.turn.question_place, self.glyphs)
        head = Content.assemble(
            ("you", "bold"), (when, "$foreground 40%"), (f"   {place}" if place else "", "$foreground 50%")
        )
        self.question.query_one(".head", Static).update(head)

    def show_head(self) -> None:
        """Name, variant and figures of the answer; the fold of its thoughts."""
        answer = self.turn.answer
        if answer is None or not self._is_ready:
            return
        head = self.answer.query_one(".head", Static)
        place = _place(self.turn.answer_place, self.glyphs)
        words = _answer_head(answer, place, self.glyphs, max(20, self.answer.size.width - 3))
        if words.plain != str(head.content):
            head.update(words, layout=False)
        fold = self.answer.query_one(".fold", Static)
        fold.display = bool(answer.reasoning)
        self._thoughts.display = bool(answer.reasoning) and self._open
        if answer.reasoning:
            fold.update(_fold_line(answer, self.glyphs, self._open))


def _place(place: Place, glyphs: Glyphs) -> str:
    return f"{place.at + 1}/{place.of} {glyphs.left} {glyphs.right}" if place.of > 1 else ""


def _fold_line(answer: ChatMessage, glyphs: Glyphs, is_open: bool) -> Content:
    arrow = glyphs.unfolded if is_open else glyphs.folded
    thinking = answer.is_running and not answer.content
    words = "thinking" if thinking else "thought"
    count = len(answer.reasoning.split())
    return Content.styled(f"{arrow} {words} {formats.seconds(answer.thought_s)}, {count} words", "$foreground 60%")


def _answer_head(answer: ChatMessage, place: str, glyphs: Glyphs, width: int) -> Content:
    name = Content.styled(answer.model, "bold $text-primary")
    figures: list[str] = []
    if answer.completion_tokens:
        figures.append(f"{'' if answer.counted else '~'}{formats.count(answer.completion_tokens)} tok")
    if answer.tokens_per_second:
        figures.append(f"{formats.rate(answer.tokens_per_second)} tok/s")
    if answer.ttft_s:
        figures.append(f"ttft {formats.seconds(answer.ttft_s)}")
    state = _STATES.get(answer.state)
    if state:
        figures.append(state)
    separator = f" {glyphs.separator} "
    while figures and len(separator.join(figures)) + len(place) + name.cell_length + 5 > width:
        figures.pop(0 if len(figures) > 1 and not state else -1 if not state else 0)
    right = "   ".join(part for part in (place, separator.join(figures)) if part)
    space = max(1, width - name.cell_length - len(right))
    return Content.assemble(name, " " * space, (right, "$foreground 50%"))
