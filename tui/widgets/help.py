"""The window that shows every key, from the table of actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from tui.actions import ACTIONS, HEADINGS, PLACES, Where, keys_shown
from tui.glyphs import Glyphs

_LEAST_KEYS = 8
_GAP = "  "
_LAST = "Keys can be changed in config.toml, [tui.keys]: the words in brackets are the names."


def help_text(width: int, mode: str, moved: Mapping[str, str], glyphs: Glyphs, *, readonly: bool) -> Content:
    """What can be done, that of this screen first, in columns; what is too long for its column goes on in it.

    Args:
        width: cells of a line.
        mode: the screen that is shown.
        moved: keys of the settings, by action.
        glyphs: what arrows are drawn with.
        readonly: leave out what changes something.
    """
    order = sorted(HEADINGS, key=lambda where: where not in PLACES[mode])
    lines = [line for where in order for line in _section(where, width, moved, glyphs, readonly=readonly)]
    return Content("\n").join([*lines, *Content(_LAST).wrap(width)])


def _section(where: Where, width: int, moved: Mapping[str, str], glyphs: Glyphs, *, readonly: bool) -> list[Content]:
    actions = [each for each in ACTIONS if each.where == where and not (readonly and each.destructive)]
    keys = [keys_shown(each, moved, glyphs) for each in actions]
    commands = [f"/{each.command}" if each.command else "" for each in actions]
    for_keys = max(_LEAST_KEYS, *(len(key) for key in keys))
    for_commands = max((len(command) for command in commands), default=0)
    lines = Content.styled(HEADINGS[where], "bold $text-primary").wrap(width)
    for action, key, command in zip(actions, keys, commands, strict=True):
        left = Content.assemble(
            _GAP,
            (f"{key:<{for_keys}}", "bold $text-accent"),
            (f"{_GAP}{command:<{for_commands}}" if for_commands else "", "$text-accent"),
            _GAP,
        )
        words = Content.assemble(action.help, (f" ({action.id})", "$foreground 40%"))
        first, *rest = words.wrap(max(1, width - left.cell_length))
        lines += [left + first, *(each.pad_left(left.cell_length) for each in rest)]
    return [*lines, Content("")]


class _Keys(Static):
    """Drawn for its width."""

    def __init__(self, draw: Callable[[int], Content]) -> None:
        super().__init__()
        self._draw = draw
        self._drawn_for = 0

    def on_resize(self, event: events.Resize) -> None:
        if event.size.width != self._drawn_for:
            self._drawn_for = event.size.width
            self.update(self._draw(event.size.width))


class Help(ModalScreen[None]):
    """Every key. `draw` makes the text for a width in cells."""

    BINDINGS = [Binding("escape,f1,q,enter", "dismiss(None)", "close", priority=True)]

    def __init__(self, draw: Callable[[int], Content]) -> None:
        super().__init__()
        self._draw = draw

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog -tall"):
            yield _Keys(self._draw)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
