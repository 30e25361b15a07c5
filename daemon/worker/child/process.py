"""The server's process: started in a group of its own under a guard, watched, ended with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_GUARD = Path(__file__).with_name("guard.py")
_KEPT_LINES = 20
_LONGEST_LINE = 4096
_SHOWN_CHARACTERS = 1500
_GUARD_S = 6.0
"""A little more than the guard takes to end what a command left."""
_LINE_END = re.compile(rb"\r\n|[\r\n]")
"""Progress bars end their lines with a carriage return."""


class Child:
    """One start of a server. Its output goes to this process's stderr, which is the worker's log.

    Args:
        on_line: is told each line that it writes.
        keep: how many of its last lines are kept.
    """

    def __init__(self, on_line: Callable[[str], None] | None = None, *, keep: int = _KEPT_LINES) -> None:
        self._on_line = on_line
        self.lines: deque[str] = deque(maxlen=keep)
        self.code: int | None = None
        """Its exit code, once it has ended."""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def last_words(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(list(self.lines)[-_KEPT_LINES:])[-_SHOWN_CHARACTERS:]

    async def start(self, argv: Sequence[str], env: Mapping[str, str], *, private: bool = False) -> None:
        """`private`: files and sockets that it makes are this user's alone. Raises OSError: it cannot be started."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-E", str(_GUARD), "private" if private else "open", *argv),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            start_new_session=True,
        )
        self._reading = asyncio.create_task(self._read())

    async def wait(self) -> int:
        """Its exit code, once it and all that it started are gone."""
        assert self._process is not None
        code = await self._process.wait()
        self._kill()
        if self._reading is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reading), 1.0)
        self.code = code
        return code

    async def stop(self, number: int, grace_s: float) -> None:
        """Ask it to end with a signal, wait, then kill what is left of its group."""
        if self._process is None:
            return
        if self._process.returncode is None:
            strays = _descendants(self.pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace_s)
            # The guard ends them, also those that left its group, and goes on with it should this process be killed
            # now. Killed first, it would leave that to us alone.
            assert self._process.stdin is not None
            self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), _GUARD_S)
            self._kill()
            for stray in strays:
                with contextlib.suppress(psutil.Error):
                    stray.kill()
        await self._process.wait()
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _read(self) -> None:
        assert self._process is not None
        output = self._process.stdout
        assert output is not None
        rest = b""
        while data := await output.read(65536):
            *lines, rest = _LINE_END.split(rest + data)
            if len(rest) > _LONGEST_LINE:
                lines.append(rest)
                rest = b""
            self._take(lines)
        self._take([rest] if rest else [])

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                self.lines.append(text[:_LONGEST_LINE])
                if self._on_line is not None:
                    self._on_line(text[:_LONGEST_LINE])
            with contextlib.suppress(OSError, ValueError):
                print(text, file=sys.stderr, flush=True)


def free_port(host: str) -> int:
    """A port that nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.Error:
        return []
