"""What frames every screen: the line on top, the banner for trouble, and the bar of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import Static

from tui.actions import Where, footer

if TYPE_CHECKING:
    from tui.app import FcdApp

_TABS = (("chat", "Chat"), ("battle", "Battle"), ("arena", "Arena"), ("workers", "Workers"), ("logs", "Logs"))
_STATES = {"connecting": "connecting", "starting": "starting", "up": "daemon", "gone": "daemon gone"}


class AppStatic(Static):
    """A Static that knows the app as what it is."""

    @property
    def fcd(self) -> FcdApp:
        return self.app  # type: ignore[return-value]


class Header(AppStatic):
    """Where one is, and what is running."""

    def __init__(self, here: str) -> None:
        super().__init__(classes="header")
        self._here = here
        self._middle = ""
        self._drawn = Content("")

    def on_mount(self) -> None:
        self.fcd.link_changed.subscribe(self, lambda _: self.draw())
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def middle(self, text: str) -> None:
        """What this screen says about itself."""
        self._middle = text
        self.draw()

    def draw(self) -> None:
        link, glyphs = self.fcd.link, self.fcd.glyphs
        tabs = Content.assemble(
            " ",
            *(
                Content.from_markup(
                    f"[@click=app.switch_mode('{mode}')][{'bold reverse' if mode == self._here else ''}] {title} [/][/]"
                    if mode == self._here
                    else f"[@click=app.switch_mode('{mode}')] {title} [/]"
                )
                for mode, title in _TABS
            ),
        )
        colour = {"up": "$text-success", "gone": "$text-error"}.get(link.state, "$text-warning")
        dot = glyphs.dot if link.state == "up" else glyphs.ring
        room = self.size.width - tabs.cell_length - len(_STATES[link.state]) - 6
        middle = self._middle if len(self._middle) <= room else self._middle[: max(0, room - 1)] + glyphs.ellipsis[:1]
        right = Content.assemble((middle, "$foreground 80%"), "   ", (dot, colour), f" {_STATES[link.state]} ")
        space = max(1, self.size.width - tabs.cell_length - right.cell_length)
        line = Content.assemble(tabs, " " * space, right)
        if not line.is_same(self._drawn):  # an update lays the whole screen out
            self._drawn = line
            self.update(line, layout=False)


class Banner(AppStatic):
    """Says that the daemon is not there, and which key helps; not shown otherwise."""

    def __init__(self) -> None:
        super().__init__(classes="banner")

    def on_mount(self) -> None:
        self.fcd.link_changed.subscribe(self, lambda _: self.draw())
        self.draw()

    def draw(self) -> None:
        link, glyphs = self.fcd.link, self.fcd.glyphs
        self.display = link.state == "gone"
        if not self.display:
            return
        key = self.fcd.key("start_daemon")
        what = f"{key} starts it" if link.can_start else f"{key} tries now"
        reason = link.detail.split("\n")[0]
        text = f"{reason or 'The daemon is gone.'} Trying again{glyphs.ellipsis}  {what}"
        self.update(Content(f" {text}"))


class KeyBar(AppStatic):
    """The keys of this place, as many as fit; the first and the last ones stay."""

    def __init__(self, *where: Where) -> None:
        super().__init__(classes="keybar")
        self._where: tuple[Where, ...] = where

    def on_mount(self) -> None:
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def place(self, *where: Where) -> None:
        """Another place has the focus."""
        if where != self._where:
            self._where = where
            self.draw()

    def draw(self) -> None:
        actions = footer(self._where, readonly=self.fcd.readonly)
        always = footer(("everywhere",), readonly=True)[::-1]
        pairs = [(self.fcd.key(action.id), action.label) for action in actions if self.fcd.key(action.id)]
        ends = [(self.fcd.key(action.id), action.label) for action in always]
        room = self.size.width - 1 - _length(ends)
        while pairs and _length(pairs) > room:
            pairs.pop()
        parts: list[tuple[str, str] | str] = [" "]
        for key, label in (*pairs, *ends):
            parts += [(key, "bold $text-accent"), (f" {label}  ", "$foreground 70%")]
        self.update(Content.assemble(*parts))


def _length(pairs: list[tuple[str, str]]) -> int:
    return sum(len(key) + len(label) + 3 for key, label in pairs)
