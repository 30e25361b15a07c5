"""Progress on stderr: a bar on a terminal, a line per step anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from fcd.cli.output import size, wants_colour
from fcd.wire.admin import Progress

if TYPE_CHECKING:
    import rich.progress

_QUIET_S = 1.0
"""What takes less than this is not worth lines in somebody's log."""

_STEP = 10
"""Percent between two lines where there is no terminal."""


class ProgressDisplay:
    """Call it with each `Progress`; leaving the context clears the bar. Nothing is shown before the first call."""

    def __init__(self, title: str = "", *, stream: IO[str] | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._bar: rich.progress.Progress | None = None
        self._task: Any = None
        self._said = ("", -1)
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, progress: Progress) -> None:
        if wants_colour(self._stream):
            self._draw(progress)
        else:
            self._write(progress)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar, self._task = _make_bar(self._stream, self._text(progress))
        counted = "/".join(_amount(value, progress.unit) for value in (progress.done, progress.total) if value)
        self._bar.update(
            self._task,
            description=self._text(progress),
            completed=progress.done,
            total=progress.total or None,
            counted=counted if progress.unit == "bytes" or progress.total > 1 else "",
        )

    def _write(self, progress: Progress) -> None:
        now = time.monotonic()
        self._began = self._began or now
        if now - self._began < _QUIET_S:
            return
        percent = int(100 * progress.done / progress.total) if progress.total else 0
        step = percent - percent % _STEP
        text = self._text(progress)
        if (text, step) == self._said:
            return
        self._said = (text, step)
        # Of a single thing there is no share worth telling.
        amount = f" {percent}% of {_amount(progress.total, progress.unit)}" if progress.total > 1 else ""
        print(f"{text}...{amount}", file=self._stream, flush=True)

    def _text(self, progress: Progress) -> str:
        stage = progress.stage
        return f"{self._title}: {stage}" if self._title else stage[:1].upper() + stage[1:]


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return size(value) or "0 B"
    return f"{value:.0f} {unit}".rstrip()


def _make_bar(stream: IO[str], text: str) -> tuple[rich.progress.Progress, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        SpinnerColumn("line"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
        console=Console(file=stream),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task(text, total=None, counted="")
