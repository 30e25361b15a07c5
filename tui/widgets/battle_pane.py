"""One side of a battle: its answers, turn by turn, streamed as the transcript streams its own."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from fcd.wire.arena import Answer, Side, Turn
from tui.glyphs import Glyphs
from tui.widgets.body import Body
from tui.widgets.scrolling import Scrolling
from tui.widgets.uniform import Uniform

_MASK = "█"
"""What the daemon covers models' names with."""


class Said(Uniform):
    """A question and this side's answer."""

    def __init__(self, question: str, glyphs: Glyphs, *, shaded: bool) -> None:
        super().__init__(classes="turn")
        self.question = question
        self.answer = Answer()
        self._asked = Body(glyphs, classes="text", shaded=shaded)
        self._body = Body(glyphs, classes="text", shaded=shaded)
        self._notice = Static("", classes="notice", markup=False)
        self._ascii = glyphs.ascii
        self._shown = ""
        self._finished = False
        self._noticed: str | None = None
        self._ready = False

    def compose(self) -> ComposeResult:
        with Uniform(classes="message -question"):
            yield self._asked
        with Uniform(classes="message -answer"):
            yield self._body
            yield self._notice

    @property
    def body(self) -> Body:
        return self._body

    def on_mount(self) -> None:
        self._asked.show_plain(self.question)
        self._body.display = False
        self._ready = True
        self.update(self.answer)

    def update(self, answer: Answer) -> None:
        """Draw what is new since the last time."""
        self.answer = answer
        if not self._ready:
            return
        over = answer.state in ("done", "stopped", "failed")
        text = answer.text.replace(_MASK, "#") if self._ascii else answer.text
        if not text.startswith(self._shown) or (self._finished and text != self._shown):
            self._shown, self._finished = "", False
            self._body.show("")
        if len(text) > len(self._shown):
            self._body.display = True
            self._body.feed(text[len(self._shown) :])
            self._shown = text
        if over and not self._finished:
            self._finished = True
            self._body.finish()
        words = answer.error or ("stopped" if answer.state == "stopped" else "")
        if over and not answer.text and not words:
            words = "It said nothing."
        if words != self._noticed:  # every update of a Static lays the whole screen out
            self._noticed = words
            self._notice.display = bool(words)
            self._notice.update(words)


class Pane(Vertical):
    """`sync` draws a battle's turns; the head says who it is and what it does."""

    def __init__(self, side: Side, glyphs: Glyphs, *, shaded: bool) -> None:
        super().__init__(id=f"pane-{side}", classes="pane")
        self.side: Side = side
        self._glyphs = glyphs
        self._shaded = shaded
        self._said: list[Said] = []
        self._words = ("", "", "")
        self._drawn_head: tuple[str, str, int, str] | None = None

    def compose(self) -> ComposeResult:
        yield Static("", classes="pane-head")
        with Scrolling(classes="pane-scroll", can_focus=False):
            yield Uniform(classes="turns")

    @property
    def scroller(self) -> Scrolling:
        return self.query_one(Scrolling)

    def on_mount(self) -> None:
        self.scroller.anchor()

    def on_resize(self) -> None:
        self.head(*self._words)

    def head(self, name: str, right: str, other: str = "") -> None:
        """The line on top; `other` is how to come to the side that is not on the screen."""
        self._words = name, right, other
        hidden = f"   {other}" if other else ""
        space = max(1, self.size.width - len(name) - len(hidden) - len(right) - 2)
        drawn = name, hidden, space, right
        if drawn != self._drawn_head:
            self._drawn_head = drawn
            parts = (f" {name}", "bold $text-primary"), (hidden, "$foreground 60%"), " " * space
            self.query_one(".pane-head", Static).update(
                Content.assemble(*parts, (right, "$foreground 60%")), layout=False
            )

    @property
    def last(self) -> Body | None:
        """The answer that is being written, or was last."""
        return self._said[-1].body if self._said else None

    def sync(self, turns: Sequence[Turn]) -> None:
        """Show these turns, keeping what is drawn of them already."""
        known = [said.question for said in self._said]
        asked = [turn.prompt for turn in turns]
        if known != asked[: len(known)]:
            self.query_one(".turns").remove_children()
            self._said = []
        fresh = [Said(turn.prompt, self._glyphs, shaded=self._shaded) for turn in turns[len(self._said) :]]
        if fresh:
            self._said += fresh
            self.query_one(".turns").mount(*fresh)
            self.scroller.anchor()
        for said, turn in zip(self._said, turns, strict=True):
            said.update(getattr(turn, self.side))
