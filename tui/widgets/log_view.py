"""Many log lines, of which only those on the screen are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

from tui.loglines import level_of
from tui.markdown.flatten import sanitise

LIMIT = 20_000
"""Lines that are kept; older ones are dropped."""
_STYLES = ("$foreground 50%", "", "$text-warning", "$text-error")


def cleaned(line: str) -> str:
    """A line as it is kept: nothing in it reaches the terminal as a command."""
    return sanitise(line).expandtabs(4)


class LogView(ScrollView, can_focus=True):
    """Shows lines from a level up and with certain words, and follows the end until a person scrolls."""

    class Moved(Message):
        """Follows or not, or shows other lines."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.following = True
        self._levels: list[int] = []
        self._shown: list[int] = []
        self._level = 0
        self._words = ""
        self._mark = -1

    @property
    def shown(self) -> list[str]:
        """The lines that the filters let through."""
        return [self.lines[index] for index in self._shown]

    def errors(self) -> int:
        return sum(level == 3 and self._begins(index, index - 1) for index, level in enumerate(self._levels))

    def _begins(self, index: int, before: int) -> bool:
        """Whether an error begins here, and does not go on from the line shown before, as a trace does."""
        return before != index - 1 or before < 0 or self._levels[before] != 3 or self.lines[index][:1].isdigit()

    def replace(self, lines: Sequence[str]) -> None:
        """Another log."""
        self.lines, self._levels, self._mark = [], [], -1
        self._shown = []
        self.append(lines)
        self._filter()

    def append(self, lines: Sequence[str]) -> None:
        if not lines:
            return
        before = self._levels[-1] if self._levels else 1
        for line in lines:
            clean = cleaned(line)
            before = level_of(clean, before)
            self.lines.append(clean)
            self._levels.append(before)
            if self._passes(len(self.lines) - 1):
                self._shown.append(len(self.lines) - 1)
        if len(self.lines) > LIMIT:
            surplus = len(self.lines) - LIMIT * 9 // 10
            del self.lines[:surplus], self._levels[:surplus]
            self._filter()
        self._resized()

    def filter(self, *, level: int, words: str) -> None:
        self._level, self._words = level, words.lower()
        self._filter()

    def _filter(self) -> None:
        self._shown = [index for index in range(len(self.lines)) if self._passes(index)]
        self._mark = -1
        self._resized()

    def _passes(self, index: int) -> bool:
        return self._levels[index] >= self._level and (not self._words or self._words in self.lines[index].lower())

    def _resized(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._shown))
        if self.following:
            self.scroll_end(animate=False, immediate=True)
        self.refresh()
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        self._resized()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        following = new_value >= self.max_scroll_y
        if following != self.following and not (new_value > old_value and not following and self.following):
            self.following = following
            self.post_message(self.Moved())

    def follow(self, wanted: bool) -> None:
        self.following = wanted
        if wanted:
            self.scroll_end(animate=False, immediate=True)
        self.post_message(self.Moved())

    def go_to(self, *, error: bool) -> bool:
        """Mark the next line (the next error, if wanted), from the top again after the last; whether there is one."""
        pairs = zip(self._shown, [-1, *self._shown], strict=False)
        found = [
            row
            for row, (index, before) in enumerate(pairs)
            if not error or (self._levels[index] == 3 and self._begins(index, before))
        ]
        if not found:
            return False
        self._mark = next((row for row in found if row > self._mark), found[0])
        self.following = False
        self.scroll_to(y=max(0, self._mark - self.size.height // 2), animate=False, immediate=True)
        self.refresh()
        self.post_message(self.Moved())
        return True

    def render_line(self, y: int) -> Strip:
        row = y + int(self.scroll_offset.y)
        width = self.size.width
        if row >= len(self._shown):
            return Strip.blank(width, self.visual_style.rich_style)
        index = self._shown[row]
        content = Content(self.lines[index]).stylize(_STYLES[self._levels[index]])
        if self._words:
            content = _marked(content, self._words)
        if row == self._mark:
            content = content.stylize("reverse")
        content = content.truncate(width, ellipsis=True)
        return Visual.to_strips(self, content, width, 1, self.visual_style, apply_selection=False, pad=True)[0]


def _marked(content: Content, words: str) -> Content:
    text = content.plain.lower()
    at = text.find(words)
    while at >= 0:
        content = content.stylize("bold underline", at, at + len(words))
        at = text.find(words, at + len(words))
    return content
