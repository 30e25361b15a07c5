"""How an answer appears while it is written: as it comes, as Markdown, or as FastChat's programs expect it."""

from __future__ import annotations

import sys
import time
from typing import IO, TYPE_CHECKING, Literal

from fcd.cli.chatting.session import Display
from fcd.cli.output import printable, wants_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.segment import Segment

Style = Literal["simple", "rich", "programmatic"]

END_OF_MESSAGE = " __END_OF_A_MESSAGE_47582648__\n"
"""Ends a turn that a program types, as FastChat's programmatic style has it."""

_FRAMES_PER_S = 8


def make_display(style: Style, stream: IO[str] | None = None) -> Display:
    """One display for one answer. `rich` needs a terminal with colours and is `simple` anywhere else."""
    out = stream or sys.stdout
    if style == "rich" and wants_colour(out):
        return RichDisplay(out)
    if style == "programmatic":
        return ProgrammaticDisplay(out)
    return SimpleDisplay(out)


class SimpleDisplay:
    """Text as it comes, and a newline at the end. On a terminal, control characters are left out."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._clean = stream.isatty()
        self._last = ""

    def add(self, text: str) -> None:
        shown = printable(text) if self._clean else text
        self._stream.write(shown)
        self._stream.flush()
        self._last = shown[-1:] or self._last

    def finish(self) -> None:
        if self._last and self._last != "\n":
            self._stream.write("\n")
            self._stream.flush()


class ProgrammaticDisplay(SimpleDisplay):
    """The role before the answer, as programs that read FastChat's output expect it."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        stream.write("[!OP:ASSISTANT]: ")
        stream.flush()
        self._last = " "


class RichDisplay:
    """Markdown: its end is drawn while it is written; then the whole answer is printed once, for the scrollback."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console: Console = Console(file=stream)
        self._live: Live | None = None
        self._text = ""
        self._drawn = 0.0

    def add(self, text: str) -> None:
        from rich.live import Live

        self._text += printable(text)
        if self._live is None:
            self._live = Live(console=self._console, transient=True, auto_refresh=False, vertical_overflow="crop")
            self._live.start()
        now = time.monotonic()
        if now - self._drawn >= 1 / _FRAMES_PER_S:
            self._drawn = now
            height = max(self._console.height - 2, 4)
            self._live.update(_Bottom(ending(self._text, height), height), refresh=True)

    def finish(self) -> None:
        from rich.markdown import Markdown

        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._text.strip():
            self._console.print(Markdown(self._text))


class _Bottom:
    """The last lines of Markdown that is higher than the terminal."""

    def __init__(self, text: str, height: int) -> None:
        self._text = text
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        from rich.markdown import Markdown
        from rich.segment import Segment

        lines = console.render_lines(Markdown(self._text), pad=False)
        for line in lines[-self._height :]:
            yield from line
            yield Segment.line()


def ending(text: str, lines: int) -> str:
    """The end of a Markdown text, cut at a blank line outside of code, with at least `lines` lines where there are.

    It keeps the drawing of a long answer as cheap as that of a short one.
    """
    every = text.splitlines(keepends=True)
    if len(every) <= lines:
        return text
    cut, fence = 0, ""
    for number, line in enumerate(every[: len(every) - lines]):
        stripped = line.lstrip()
        if stripped.startswith(("```", "~~~")) and (not fence or stripped.startswith(fence)):
            fence = "" if fence else stripped[:3]
        elif not stripped and not fence:
            cut = number + 1
    return "".join(every[cut:])
