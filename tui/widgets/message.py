"""A question and its answer, as the transcript shows them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Static

from tui import formats
from tui.chats import Turn, Variant
from tui.glyphs import Glyphs
from tui.widgets.uniform import Uniform

if TYPE_CHECKING:
    from tui.widgets.body import Body


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

    @property
    def body(self) -> Body:
        return cast("Body", self.query_one(".text"))

    @property
    def turn_view(self) -> TurnView:
        assert isinstance(self.parent, TurnView)
        return self.parent

    def notice(self, content: Content | None) -> None:
        """Tell something below the text, or nothing."""
        notice = self.query_one(".notice", Static)
        notice.update(content or "")
        notice.display = content is not None


class TurnView(Uniform):
    """Both sides of a turn, showing its chosen variant."""

    def __init__(self, turn: Turn, glyphs: Glyphs, *, shaded: bool = True, asked_at: float = 0.0) -> None:
        super().__init__(classes="turn")
        self.turn = turn
        self.glyphs = glyphs
        self.question = MessageView(glyphs, question=True, shaded=shaded)
        self.answer = MessageView(glyphs, question=False, shaded=shaded)
        self._asked_at = asked_at
        self._open = False
        self._written = 0
        self._thought = 0

    def compose(self) -> ComposeResult:
        yield self.question
        yield self.answer

    def on_mount(self) -> None:
        self.show()

    @property
    def _thoughts(self) -> Body:
        return cast("Body", self.answer.query_one(".thoughts"))

    def show(self) -> None:
        """Draw the chosen variant anew."""
        variant = self.turn.variant
        self.question.body.show_plain(variant.question)
        when = time.strftime("  %H:%M", time.localtime(self._asked_at)) if self._asked_at else ""
        self.question.query_one(".head", Static).update(Content.assemble(("you", "bold"), (when, "$foreground 40%")))
        self.question.notice(None)
        self.answer.notice(None)
        self.answer.next_code = 0
        self._written, self._thought = len(variant.text), len(variant.reasoning)
        self._thoughts.show(variant.reasoning)
        self.answer.body.show(variant.text)
        self.answer.body.display = bool(variant.text)
        self.show_head()

    def flush(self) -> None:
        """Draw what came since the last flush."""
        variant = self.turn.variant
        if len(variant.reasoning) > self._thought:
            self._thoughts.feed(variant.reasoning[self._thought :])
            self._thought = len(variant.reasoning)
        if len(variant.text) > self._written:
            if not self._written:
                self._thoughts.finish()
                self.answer.notice(None)
            self.answer.body.display = True
            self.answer.body.feed(variant.text[self._written :])
            self._written = len(variant.text)
        self.show_head()

    def finish(self) -> None:
        """The answer is complete, or as complete as it will be."""
        self.flush()
        self._thoughts.finish()
        self.answer.body.finish()
        self.show_head()

    def toggle_thoughts(self) -> None:
        self._open = not self._open
        self.show_head()

    def show_head(self) -> None:
        """Name, variant and figures of the answer; the fold of its thoughts."""
        variant = self.turn.variant
        head = self.answer.query_one(".head", Static)
        words = _answer_head(self.turn, self.glyphs, max(20, self.answer.size.width - 3))
        if words.plain != str(head.content):
            head.update(words, layout=False)
        fold = self.answer.query_one(".fold", Static)
        fold.display = bool(variant.reasoning)
        self._thoughts.display = bool(variant.reasoning) and self._open
        if variant.reasoning:
            fold.update(_fold_line(variant, self.glyphs, self._open))

    def on_resize(self) -> None:
        self.show_head()


def _fold_line(variant: Variant, glyphs: Glyphs, is_open: bool) -> Content:
    arrow = glyphs.unfolded if is_open else glyphs.folded
    thinking = variant.state == "writing" and not variant.text
    words = "thinking" if thinking else "thought"
    count = len(variant.reasoning.split())
    return Content.styled(f"{arrow} {words} {formats.seconds(variant.thought_s)}, {count} words", "$foreground 60%")


def _answer_head(turn: Turn, glyphs: Glyphs, width: int) -> Content:
    variant = turn.variant
    name = Content.styled(variant.model, "bold $text-primary")
    figures: list[str] = []
    if variant.completion_tokens:
        figures.append(f"{'' if variant.counted else '~'}{formats.count(variant.completion_tokens)} tok")
    if variant.tokens_per_second:
        figures.append(f"{formats.rate(variant.tokens_per_second)} tok/s")
    if variant.ttft_s:
        figures.append(f"ttft {formats.seconds(variant.ttft_s)}")
    state = {"stopped": "stopped", "cut": "length limit", "failed": "failed"}.get(variant.state)
    if state:
        figures.append(state)
    place = ""
    if len(turn.variants) > 1:
        place = f"{turn.chosen + 1}/{len(turn.variants)} {glyphs.left} {glyphs.right}"
    separator = f" {glyphs.separator} "
    while figures and len(separator.join(figures)) + len(place) + name.cell_length + 5 > width:
        figures.pop(0 if len(figures) > 1 and not state else -1 if not state else 0)
    right = "   ".join(part for part in (place, separator.join(figures)) if part)
    space = max(1, width - name.cell_length - len(right))
    return Content.assemble(name, " " * space, (right, "$foreground 50%"))
