"""One start of the worker program on a cluster's node. Travels there by value: the standard library only."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_LONGEST_LINE = 64 * 1024
_LOG_BYTES = 16 * 2**20
_TAIL_BYTES = 2**20
_LAST_WORDS = 300
_NOT_FOR_WORKERS = ("RAY_", "FCD_API_KEY", "FCD_JOIN_TOKEN", "FCD_WORKER_KEY", "FCD_PORT", "FCD_HOST")
EXIT_USAGE = 2


class Run:
    """The worker program in a process group of its own, until nothing of it is left.

    The kernel ends it when the thread that starts it ends.

    Args:
        launch: see `messages.Launch`.
        node: this node's address.
        env: variables over those of this process.
        on_event: is told, in a thread, each event that the program reports.
    """

    def __init__(
        self,
        launch: dict[str, Any],
        node: str,
        log: LogFile,
        on_event: Callable[[dict[str, Any]], None],
        env: dict[str, str],
    ) -> None:
        """Raises OSError: it cannot be started."""
        self._on_event = on_event
        command = _command(launch, node)
        given = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_WORKERS)}
        given.update(FCD_PARENT_WATCH="1", PYTHONUNBUFFERED="1")
        if launch["token"]:
            given["FCD_JOIN_TOKEN"] = launch["token"]
        if not launch["gpus"]:
            given["CUDA_VISIBLE_DEVICES"] = ""
        with log.open() as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command[3:])}\n".encode())
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**given, **env},
                start_new_session=True,
            )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._reading = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reading.start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def tell(self, line: str) -> None:
        """A line for its stdin."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def stop(self, grace_s: float) -> None:
        """Ask it to end, wait so long, then kill."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def finish(self) -> int:
        """End what is left of it; its return code."""
        self.kill()
        code = self._process.wait()
        self._reading.join(1.0)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return code

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _read(self, stdout: IO[bytes]) -> None:
        for line in iter(lambda: stdout.readline(_LONGEST_LINE), b""):
            try:
                event = json.loads(line)
                known = isinstance(event.get("event"), str)
            except (ValueError, AttributeError):
                continue
            if known:
                self._on_event(event)


class LogFile:
    """What the worker programs of one host write, over all their starts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> IO[bytes]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.fdopen(os.open(self.path, flags, 0o600), "ab", buffering=0)

    def add(self, text: str) -> None:
        with contextlib.suppress(OSError), self.open() as file:
            file.write(text.encode())

    def lines(self, count: int) -> list[str]:
        """Its end."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return [f"The log {self.path} cannot be read: {error.strerror}."]
        return text.splitlines()[-count:]

    def after(self, place: int) -> tuple[str, int]:
        """The whole lines behind a place in it, a part of them if they are many, and the place behind those."""
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < place:
                    place = 0
                file.seek(place)
                data = file.read(_LONGEST_LINE)
        except OSError:
            return "", place
        whole = data if len(data) == _LONGEST_LINE and b"\n" not in data else data[: data.rfind(b"\n") + 1]
        return whole.decode("utf-8", "replace"), place + len(whole)

    def last_words(self) -> str:
        lines = [line.strip() for line in self.lines(20) if line.strip() and not line.startswith("--- ")]
        return f"Its last words: {lines[-1][-_LAST_WORDS:]}" if lines else ""

    def shorten(self) -> None:
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > _LOG_BYTES:
                os.truncate(self.path, 0)


def _command(launch: dict[str, Any], node: str) -> list[str]:
    # `-m` would import from the current folder first, whatever lies there; -P forbids that.
    command = [sys.executable, "-P", "-m", "fcd", "worker", "run"]
    command += ["--controller", launch["controller"]] if launch["controller"] else ["--no-register"]
    command += ["--port", "0"]
    if launch["on_loopback"]:
        command += ["--host", "127.0.0.1"]
    elif not node.startswith("127."):
        command += ["--host", node]
    return command + list(launch["arguments"])


def here() -> tuple[str, str]:
    """This node's address, and the folder where Ray keeps its logs and clears them away."""
    import ray
    from ray._private.worker import global_worker

    return str(ray.util.get_node_ip_address()), str(global_worker.node.get_logs_dir_path())


def why_not_here(node: str) -> str:
    if importlib.util.find_spec("fcd") is not None:
        return ""
    return (
        f"fcd is not installed on the node {node} in Ray's own Python ({sys.executable}): "
        f"`{sys.executable} -m pip install 'fcd[ray]'` there."
    )


def how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
