"""One worker's process: started in a process group of its own, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import psutil

from fcd.wire.admin import WorkerEvent

_LONGEST_LINE = 64 * 1024
_LAST_READ_S = 0.5
"""How long a dead process's output may take to arrive."""
_POSIX = os.name == "posix"

OnEvent = Callable[[WorkerEvent], None]
OnExit = Callable[[int], None]


class Process(Protocol):
    """A started worker."""

    pid: int

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, wait, then kill everything it started. Returns when it is gone; `on_exit` was called."""
        ...

    def kill(self) -> None:
        """Kill everything it started, now."""
        ...


class Spawn(Protocol):
    async def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: IO[bytes],
        on_event: OnEvent,
        on_exit: OnExit,
    ) -> Process:
        """Start a command. `on_exit` is called once, with its return code (negative: the signal).

        Raises:
            OSError: it cannot be started.
        """
        ...


async def spawn(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: IO[bytes],
    on_event: OnEvent,
    on_exit: OnExit,
) -> Process:
    """Start a real process. Its stdin is a pipe that ends with this process, so that it can see us die."""
    options: dict[str, Any] = {"start_new_session": True} if _POSIX else {"creationflags": _new_group_flag()}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(
        lambda: _Output(log, on_event, on_exit),
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=dict(env),
        cwd=str(cwd),
        **options,
    )
    return protocol.attach(transport)


class _Output(asyncio.SubprocessProtocol):
    """Reads the JSON lines of a worker's stdout; everything else that it prints goes to its log."""

    def __init__(self, log: IO[bytes], on_event: OnEvent, on_exit: OnExit) -> None:
        self._log = log
        self._on_event = on_event
        self._on_exit = on_exit
        self._rest = b""
        self._process: GroupProcess | None = None
        self._exited = False
        self._read_all = False
        self._finished = False

    def attach(self, transport: asyncio.SubprocessTransport) -> GroupProcess:
        self._process = GroupProcess(transport)
        if self._exited:
            self._end()
        return self._process

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        if line.startswith(b"{"):
            try:
                event = msgspec.json.decode(line, type=WorkerEvent)
            except msgspec.MsgspecError:
                pass
            else:
                self._on_event(event)
                return
        with contextlib.suppress(OSError, ValueError):
            self._log.write(line + b"\n")

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._read_all = self._read_all or fd == 1
        if self._exited and self._read_all:
            self._finish()

    def process_exited(self) -> None:
        self._exited = True
        if self._process is not None:
            self._end()

    def _end(self) -> None:
        """Kill what it left behind, which may hold its stdout open, then read what it said last."""
        assert self._process is not None
        self._process.kill_rest()
        if self._read_all:
            self._finish()
        else:
            asyncio.get_running_loop().call_later(_LAST_READ_S, self._finish)

    def _finish(self) -> None:
        process = self._process
        if self._finished or process is None:
            return
        self._finished = True
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        code = process.ended()
        self._on_exit(code)


class GroupProcess:
    """A process and the group that it leads."""

    def __init__(self, transport: asyncio.SubprocessTransport) -> None:
        self.pid = transport.get_pid()
        self._transport = transport
        self._gone = asyncio.Event()
        self._strays: list[psutil.Process] = []

    async def stop(self, grace_s: float) -> None:
        self._strays = _descendants(self.pid)
        if grace_s > 0 and not self._gone.is_set():
            _signal_group(self.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._gone.wait()
        self.kill()
        await self._gone.wait()

    def kill(self) -> None:
        if not self._gone.is_set():
            self._strays = _descendants(self.pid) or self._strays
            _kill_group(self.pid)

    def kill_rest(self) -> None:
        """The leader has ended: whatever it left in its group goes too."""
        _kill_group(self.pid)
        for stray in self._strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        self._strays = []

    def ended(self) -> int:
        """Close the pipes and tell those who wait; returns the return code."""
        code = self._transport.get_returncode()
        self._transport.close()
        self._gone.set()
        return -1 if code is None else code


def _descendants(pid: int) -> list[psutil.Process]:
    """Those that may have left the group; psutil knows them by start time, so a reused id is not mistaken."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.Error:
        return []


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _POSIX:
            os.killpg(pid, number)
        else:
            psutil.Process(pid).terminate()


def _kill_group(pid: int) -> None:
    if _POSIX:
        _signal_group(pid, signal.SIGKILL)
        return
    for process in _descendants(pid):
        with contextlib.suppress(psutil.Error):
            process.kill()
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).kill()


def _new_group_flag() -> int:
    return int(getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)) if sys.platform == "win32" else 0
