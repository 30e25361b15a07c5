"""Starts the daemon when it is not up, and waits until it is ready. Imports neither Sanic nor an HTTP client."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

import fcd
from fcd.errors import EXIT_NOT_RUNNING, FcdError
from fcd.instance import Instance, lock_is_held, running_instance
from fcd.logformat import for_people
from fcd.paths import Paths
from fcd.settings import Settings
from fcd.wire.admin import Progress

if TYPE_CHECKING:
    from fcd.client import Address

OnProgress = Callable[[Progress], None]

START_TIMEOUT_S = 120.0
_POLL_S = 0.05
_LOG_LINES = 12
_DISMISS_S = 5.0


def ensure_daemon(paths: Paths, settings: Settings, on_progress: OnProgress) -> Address:
    """Where the running daemon is; it is started here when there is none.

    With `FCD_URL` set nothing is started: that address is used as it is. Blocks; call it in a thread from a loop.
    Two callers at once get one daemon.

    Raises:
        FcdError: it cannot be started, with its last log lines.
    """
    from fcd.client import find_daemon

    if not os.environ.get("FCD_URL"):
        instance = running_instance(paths)
        if instance is None or not_ready(instance.url) is not None:
            start_daemon(paths, on_progress=on_progress)
    return find_daemon(paths=paths)


def start_daemon(
    paths: Paths,
    *,
    flags: Sequence[str] = (),
    on_progress: OnProgress,
    timeout_s: float = START_TIMEOUT_S,
) -> tuple[Instance, bool]:
    """The running daemon and whether this call started it; returns once it is ready.

    Raises:
        FcdError: it stopped while starting (with the cause and its last words), or was not ready in time.
    """
    paths.create()
    words = paths.logs / "daemon.err"
    began = time.monotonic()
    child: subprocess.Popen[bytes] | None = None
    spawned = False
    try:
        while True:
            instance = running_instance(paths)
            reason = not_ready(instance.url) if instance is not None else "starting"
            if instance is not None and reason is None:
                mine = child is not None and child.pid == instance.pid
                if not mine:
                    _dismiss(child)
                child = None
                return instance, mine
            if child is not None and child.poll() is not None:
                if child.returncode != EXIT_NOT_RUNNING:
                    raise _died(child.returncode, words, paths)
                child = None  # another start was faster: wait for that daemon
            if child is None and not lock_is_held(paths):
                if spawned:
                    raise _died(EXIT_NOT_RUNNING, words, paths)
                child, spawned = _spawn(words, flags), True
            waited = time.monotonic() - began
            if waited > timeout_s:
                raise _too_slow(waited, reason, paths)
            on_progress(Progress("Starting the daemon", done=waited, unit="s", detail=reason or ""))
            time.sleep(_POLL_S)
    except BaseException:
        _dismiss(child)
        raise


def not_ready(url: str, timeout_s: float = 2.0) -> str | None:
    """Why the daemon at `url` is not ready; None when it is."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"it does not answer at {url} ({error or type(error).__name__})"
    finally:
        connection.close()
    if answer.status == 200:
        return None
    try:
        reasons = msgspec.json.decode(body)["reasons"]
        return " ".join(str(reason) for reason in reasons)
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"it answers with HTTP status {answer.status}"


def last_log_lines(path: Path, count: int) -> list[str]:
    """The end of a log file, for people; empty when there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [for_people(line) for line in lines[-count:]]


def progress_on_stderr() -> ProgressLine:
    return ProgressLine(sys.stderr)


class ProgressLine:
    """Shows how long it takes: a line that is rewritten on a terminal, one line anywhere else."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._shown = ""

    def __call__(self, progress: Progress) -> None:
        text = f"{progress.stage}..." if not self._rewrites else f"{progress.stage}... {progress.done:.0f} s"
        if text != self._shown:
            self._stream.write(f"\r{text}\x1b[K" if self._rewrites else f"{text}\n")
            self._stream.flush()
            self._shown = text

    def end(self) -> None:
        if self._rewrites and self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _spawn(words: Path, flags: Sequence[str]) -> subprocess.Popen[bytes]:
    """The daemon as a process of its own session; what it says before its log is open goes to `words`."""
    root = Path(fcd.__file__).resolve().parent.parent
    # `-m` would import from the current folder first, whatever lies there; -P forbids that.
    safe = [] if Path.cwd() == root else ["-P"]
    command = [sys.executable, *safe, "-m", "fcd", "daemon", "run", "--detached", *flags]
    with words.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, close_fds=True
        )


def _dismiss(child: subprocess.Popen[bytes] | None) -> None:
    """End a start that is not wanted any more: left alone, it would become the daemon once the lock is free."""
    if child is not None and child.poll() is None:
        child.terminate()
        try:
            child.wait(_DISMISS_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _died(code: int, words: Path, paths: Paths) -> FcdError:
    said = [line for line in last_log_lines(words, _LOG_LINES) if line.strip()]
    if not said:
        said = last_log_lines(paths.daemon_log, _LOG_LINES)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    text = "\n".join(said).removeprefix("fcd: ")
    return FcdError(
        text or f"The daemon stopped while it was starting ({how}).",
        hint=f"The daemon did not start ({how}). Its log: {paths.daemon_log}",
    )


def _too_slow(waited: float, reason: str | None, paths: Paths) -> FcdError:
    return FcdError(
        f"The daemon was not ready after {waited:.0f} s: {reason or 'no reason given'}.",
        hint=f"`fcd daemon logs` shows what it was doing. Its log: {paths.daemon_log}",
    )
