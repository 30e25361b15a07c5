"""One browser's session: the interface as a process of its own, and the pipe to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence

from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

_QUIT_S = 5.0
"""How long a session may take to leave, keeping what was said, before it is ended."""
_ERRORS = 64 * 1024
_LARGEST = 500
"""Cells of a side of the terminal: a browser could ask for a screen that takes all memory."""


class Session(AppService):
    """Starts the interface without a shell, in a process group of its own, and never leaves it behind."""

    def __init__(
        self,
        flags: Sequence[str],
        downloads: DownloadManager,
        *,
        write_bytes: Callable[[bytes], Awaitable[None]],
        write_str: Callable[[str], Awaitable[None]],
        close: Callable[[], Awaitable[object]],
    ) -> None:
        async def shut() -> None:
            await close()

        super().__init__("", write_bytes=write_bytes, write_str=write_str, close=shut, download_manager=downloads)
        self._flags = flags

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        """What a browser's terminal can do, whatever the terminal of the server can."""
        environment = super()._build_environment(width, height)
        for name in ("NO_COLOR", "TMUX", "LC_ALL", "LC_CTYPE"):
            environment.pop(name, None)
        environment.update(
            TEXTUAL_DRIVER="tui.web.driver:SessionDriver", TERM="xterm-256color", LANG="C.UTF-8", PYTHONUNBUFFERED="1"
        )
        return environment

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        command = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "tui.web.run", *self._flags]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=self._build_environment(width, height),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stderr is not None
        self._process, self._stdin = process, process.stdin
        process.stderr = _Bounded(process.stderr)  # type: ignore[assignment]
        return process

    async def start(self, width: int, height: int) -> None:
        await super().start(_side(width), _side(height))

    async def set_terminal_size(self, width: int, height: int) -> None:
        await super().set_terminal_size(_side(width), _side(height))

    async def stop(self) -> None:
        """Let it leave, and end it where it does not."""
        process = self._process
        try:
            async with asyncio.timeout(_QUIT_S):
                await super().stop()
                if process is not None:
                    process.stdin.close()  # type: ignore[union-attr]
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            if process is not None and process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


def _side(cells: int) -> int:
    return min(max(int(cells), 1), _LARGEST)


class _Bounded:
    """A stream that is read to its end, and of which only the first part is given."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._left = _ERRORS

    async def read(self, size: int) -> bytes:
        while data := await self._stream.read(size):
            if self._left > 0:
                self._left -= len(data)
                return data
        return b""
