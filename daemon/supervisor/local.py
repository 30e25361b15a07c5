"""A worker that was started here: its process, its token, its log, how far it is."""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from daemon.supervisor.launch import LaunchSpec, Place, worker_command, worker_environment
from daemon.supervisor.logs import open_log, shorten, tail
from daemon.supervisor.process import Process, Spawn
from fcd.errors import EXIT_USAGE
from fcd.paths import Paths
from fcd.wire.admin import Progress, WorkerEvent

log = logging.getLogger("fcd.supervisor")

_LAST_WORDS = 300
SOCKET_PREFIX = "w-"


class Tokens(Protocol):
    """Where one-time tokens for workers come from."""

    def issue_worker_token(self, name: str) -> str: ...

    def withdraw_worker_token(self, token: str) -> None: ...


class LocalWorker:
    """One start of one worker. `on_exit(reason, fatal, out_of_memory)` is called once, when nothing of it is left."""

    def __init__(
        self,
        name: str,
        spec: LaunchSpec,
        *,
        place: Place,
        paths: Paths,
        tokens: Tokens,
        use_sockets: bool,
        on_progress: Callable[[], None],
        on_exit: Callable[[str, bool, bool], None],
    ) -> None:
        self.name = name
        self.spec = spec
        self.place = place
        self.started_at = time.time()
        self.progress: Progress | None = Progress("starting")
        self.error = ""
        self.was_ready = False
        self.log_path: Path | None = None
        self.socket = str(paths.sockets / f"{SOCKET_PREFIX}{secrets.token_hex(6)}.sock") if use_sockets else ""
        self.process: Process | None = None
        self._paths = paths
        self._tokens = tokens
        self._token = tokens.issue_worker_token(name)
        self._on_progress = on_progress
        self._on_exit = on_exit
        self._log: IO[bytes] | None = None
        self._stop_grace: float | None = None

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    async def start(self, spawn: Spawn, controller: str) -> None:
        """Start the process; a failure to do so is reported as an exit."""
        command = worker_command(self.spec, self.name, controller=controller, socket=self.socket, place=self.place)
        try:
            self.log_path, self._log = open_log(self._paths.logs / "workers", self.name)
            self.process = await spawn(
                command,
                env=worker_environment(self._token, place=self.place, settings_file=self._paths.worker_settings),
                cwd=self._paths.runtime,
                log=self._log,
                on_event=self._event,
                on_exit=self._exited,
            )
        except OSError as error:
            self.error = f"It cannot be started: {error}."
            self._exited(-1)
            return
        log.info("worker %s starts", self.name, extra={"pid": self.pid, "log": str(self.log_path)})
        if self._stop_grace is not None:
            await self.process.stop(self._stop_grace)

    async def stop(self, grace_s: float) -> None:
        self._stop_grace = grace_s
        if self.process is not None:
            await self.process.stop(grace_s)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def tend_log(self) -> None:
        if self.log_path is not None:
            shorten(self.log_path)

    def _event(self, event: WorkerEvent) -> None:
        if event.event == "progress" and event.progress is not None:
            self.progress = event.progress
        elif event.event == "error":
            self.error = event.error or "It gave no reason."
        self._on_progress()

    def _exited(self, code: int) -> None:
        self._tokens.withdraw_worker_token(self._token)
        if self.socket:
            with contextlib.suppress(OSError):
                Path(self.socket).unlink(missing_ok=True)
        if self._log is not None:
            self._log.close()
        words = self._last_words()
        # What a killed worker said last is not why it ended.
        said = f" Its last words: {words}" if words and code != -int(signal.SIGKILL) else ""
        reason = self.error or f"It ended with {_how(code)}.{said}"
        if self.log_path is not None:
            reason += f" Its log: {self.log_path}."
        if self._stop_grace is None:
            log.error("worker %s is gone: %s", self.name, reason, extra={"log": str(self.log_path)})
        memory = any(sign in f"{self.error} {words}".lower() for sign in ("out of memory", "cannot allocate memory"))
        # A command line that is refused once is refused each time.
        self._on_exit(reason, bool(self.error) or code == EXIT_USAGE, memory)

    def _last_words(self) -> str:
        lines = [line.strip() for line in tail(self.log_path, 20) if line.strip()] if self.log_path else []
        return lines[-1][-_LAST_WORDS:] if lines else ""


def clear_sockets(folder: Path) -> None:
    """Remove what workers of a killed daemon left: they have no one to serve, and leave by themselves."""
    for stale in folder.glob(f"{SOCKET_PREFIX}*.sock"):
        with contextlib.suppress(OSError):
            stale.unlink()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"{name} (killed; the system does that when memory runs out)" if name == "SIGKILL" else name
