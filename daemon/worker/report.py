"""What a worker tells whoever started it: JSON lines for a supervisor, sentences on stderr for a person."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

import msgspec

from fcd.wire.admin import Progress, WorkerEvent

_EVERY_S = 0.2


class Reporter:
    """Progress, ready and error. Thread-safe; progress of one stage is thinned out in time."""

    def __init__(
        self, *, events: IO[bytes] | None, stderr: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._events = events
        self._stderr = sys.stderr if stderr is None else stderr
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = ""
        self._last = -1.0
        self._open_line = False

    def progress(self, progress: Progress) -> None:
        with self._lock:
            now = self._clock()
            ended = progress.total > 0 and progress.done >= progress.total
            if progress.stage == self._stage and not ended and now - self._last < _EVERY_S:
                return
            new_stage, self._stage, self._last = progress.stage != self._stage, progress.stage, now
            if self._events is not None:
                self._emit(WorkerEvent("progress", progress=progress))
            else:
                self._show(progress, new_stage)

    def ready(self, address: str, text: str) -> None:
        with self._lock:
            self._emit(WorkerEvent("ready", address=address))
            self._say(text)

    def error(self, message: str) -> None:
        with self._lock:
            supervised = self._events is not None
            self._emit(WorkerEvent("error", error=message))
            self._say(f"error: {message}" if supervised else message)  # in a log, its level tells it from the rest

    def follow(self, line: str) -> None:
        """It starts an engine that runs on other nodes too, which are to be told this."""
        with self._lock:
            self._emit(WorkerEvent("follow", follow=line))

    def say(self, message: str) -> None:
        """A sentence for a person, or a line of the log."""
        with self._lock:
            self._say(message)

    def _emit(self, event: WorkerEvent) -> None:
        if self._events is None:
            return
        try:
            self._events.write(msgspec.json.encode(event) + b"\n")
            self._events.flush()
        except (OSError, ValueError):
            # Nobody reads any more: the parent is gone, and stdin's end says so too.
            self._events = None

    def _show(self, progress: Progress, new_stage: bool) -> None:
        text = describe(progress)
        if self._stderr.isatty():
            self._write(f"\r\x1b[K{text}" if not new_stage or not self._open_line else f"\n{text}")
            self._open_line = True
        elif new_stage:
            self._write(f"{text}\n")

    def _say(self, text: str) -> None:
        self._write(("\n" if self._open_line else "") + text + "\n")
        self._open_line = False

    def _write(self, text: str) -> None:
        try:
            self._stderr.write(text)
            self._stderr.flush()
        except (OSError, ValueError):
            pass


def describe(progress: Progress) -> str:
    """One line: the stage, how far it is, and what it is about."""
    text = progress.stage
    if progress.total > 0:
        text += f" {100 * min(progress.done / progress.total, 1):3.0f} %"
        if progress.unit == "bytes":
            text += f" of {progress.total / 2**20:.0f} MiB"
    return f"{text} {progress.detail}".rstrip()


def take_stdout() -> IO[bytes]:
    """Keep stdout for events alone: whatever else prints goes to stderr from now on."""
    events = os.fdopen(os.dup(1), "wb")
    sys.stdout.flush()
    os.dup2(2, 1)
    return events
