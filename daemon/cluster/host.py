"""What runs on a cluster's node: starts the worker program there, watches it, and brings it back.

The code travels to the node by value and uses the standard library only, so that a node whose fcd is missing or another
version can still say so. No request passes through here.
"""

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
from pathlib import Path
from typing import IO, Any

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_RESTART_GRACE_S = 30.0
_STABLE_S = 60.0
"""A worker that served so long has paid for its earlier deaths."""
_POLL_S = 0.2
_LONGEST_LINE = 64 * 1024
_LOG_BYTES = 16 * 2**20
_TAIL_BYTES = 2**20
_LAST_WORDS = 300
_NOT_FOR_WORKERS = ("RAY_", "FCD_API_KEY", "FCD_JOIN_TOKEN", "FCD_WORKER_KEY", "FCD_PORT", "FCD_HOST")
_EXIT_USAGE = 2


class WorkerHost:
    """One worker on this node. Its methods return at once; a thread of its own looks after the process.

    Args:
        launch: `arguments`, `controller`, `token`, `token_id`, `version`, `on_loopback`, `gpus`: see `messages.Launch`.
        name: what the log is called.
    """

    def __init__(self, launch: dict[str, Any], name: str) -> None:
        self._launch = launch
        self._node, folder = _here()
        self._log = Path(folder) / f"{name}.log"
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._state = "starting"
        self._error = ""
        self._said = ""
        """What this run of the worker gave as its reason."""
        self._restarts = 0
        self._progress: dict[str, Any] | None = None
        self._started_at = time.time()
        self._was_ready = False
        self._again = False
        self._grace_s = -1.0
        # The kernel ends the worker when the thread that started it ends: this one lives as long as the actor.
        threading.Thread(target=self._keep, name="fcd-worker", daemon=True).start()

    # What the daemon asks

    def status(self) -> dict[str, Any]:
        with self._lock:
            process = self._process
            return {
                "state": self._state,
                "error": self._error,
                "restarts": self._restarts,
                "pid": process.pid if process is not None else 0,
                "node": self._node,
                "controller": self._launch["controller"],
                "token_id": self._launch.get("token_id", ""),
                "started_at": self._started_at,
                "progress": self._progress if self._state in ("starting", "loading") else None,
                "log": str(self._log),
            }

    def logs(self, lines: int) -> list[str]:
        """The end of the worker's log."""
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError as error:
            return [f"The log {self._log} cannot be read: {error.strerror}."]
        return text.splitlines()[-lines:]

    def restart(self) -> None:
        """End the worker, if it runs, and start it again at once; one that failed too."""
        with self._lock:
            self._again = True
        self._wake.set()

    def update(self, launch: dict[str, Any]) -> None:
        """Run it with other arguments from now on."""
        with self._lock:
            self._launch = launch
        self.restart()

    def stop(self, grace_s: float) -> None:
        """End it for good: ask, wait so long, then kill. `status` says when nothing is left."""
        with self._lock:
            self._grace_s = max(0.0, grace_s)
            if self._state != "stopped":
                self._state = "stopping"
        self._wake.set()

    # The thread

    def _keep(self) -> None:
        deaths = 0
        while self._grace_s < 0:
            began = time.monotonic()
            code = self._run()
            if self._grace_s >= 0:
                break
            if self._again:
                with self._lock:
                    self._again = False
                deaths = 0
                continue
            deaths = 1 if self._was_ready and time.monotonic() - began >= _STABLE_S else deaths + 1
            self._rest(code, deaths)
        with self._lock:
            self._state = "stopped"

    def _run(self) -> int:
        """Start it and stay until nothing of it is left; its return code."""
        with self._lock:
            self._state, self._progress, self._was_ready, self._said = "starting", None, False, ""
            self._started_at = time.time()
            launch = self._launch
        problem = _why_not_here(self._node)
        if problem:
            self._said = problem
            return _EXIT_USAGE
        try:
            process = self._spawn(launch)
        except OSError as error:
            self._said = f"It cannot be started: {error}."
            return 1
        with self._lock:
            self._process = process
        assert process.stdout is not None
        reading = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reading.start()
        self._wait(process)
        _kill_group(process.pid)
        code = process.wait()
        reading.join(1.0)
        if process.stdin is not None:
            process.stdin.close()
        with self._lock:
            self._process = None
        return code

    def _spawn(self, launch: dict[str, Any]) -> subprocess.Popen[bytes]:
        # `-m` would import from the current folder first, whatever lies there; -P forbids that.
        command = [sys.executable, "-P", "-m", "fcd", "worker", "run"]
        command += ["--controller", launch["controller"], "--port", "0"]
        if launch["on_loopback"]:
            command += ["--host", "127.0.0.1"]
        elif not self._node.startswith("127."):
            command += ["--host", self._node]
        command += launch["arguments"]
        env = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_FOR_WORKERS)}
        env.update(FCD_JOIN_TOKEN=launch["token"], FCD_PARENT_WATCH="1", PYTHONUNBUFFERED="1")
        if not launch["gpus"]:
            env["CUDA_VISIBLE_DEVICES"] = ""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(os.open(self._log, flags, 0o600), "ab", buffering=0) as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command[3:])}\n".encode())
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                start_new_session=True,
            )

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Until it has ended, by itself or because that was asked for."""
        while process.poll() is None:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            self._shorten_log()
            if self._grace_s >= 0 or self._again:
                _signal_group(process.pid, signal.SIGTERM)
                try:
                    process.wait(self._grace_s if self._grace_s >= 0 else _RESTART_GRACE_S)
                except subprocess.TimeoutExpired:
                    _kill_group(process.pid)
                    process.wait()

    def _rest(self, code: int, deaths: int) -> None:
        """Say why it ended, and wait before it is started again; for ever if that would change nothing."""
        hopeless = (bool(self._said) or code == _EXIT_USAGE) and not self._was_ready
        wait = 0.0 if self._was_ready and deaths == 1 else min(_FIRST_WAIT_S * 2 ** (deaths - 1), _LONGEST_WAIT_S)
        with self._lock:
            self._error = self._said or f"It ended with {_how(code)}. {self._last_words()}".strip()
            self._restarts += 1
            self._state = "failed" if hopeless else "backoff"
        deadline = float("inf") if hopeless else time.monotonic() + wait
        while self._grace_s < 0 and not self._again and time.monotonic() < deadline:
            self._wake.wait(min(0.5, max(0.0, deadline - time.monotonic())))
            self._wake.clear()
        with self._lock:
            self._again = False

    # What the worker says

    def _read(self, stdout: IO[bytes]) -> None:
        for line in iter(lambda: stdout.readline(_LONGEST_LINE), b""):
            try:
                event = json.loads(line)
                kind = event["event"]
            except (ValueError, KeyError, TypeError):
                continue
            if kind == "progress":
                with self._lock:
                    self._progress = event.get("progress")
                    self._state = "loading" if self._state == "starting" else self._state
            elif kind == "ready":
                with self._lock:
                    self._was_ready, self._error = True, ""
                    self._state = "ready" if self._state in ("starting", "loading") else self._state
            elif kind == "error":
                self._said = str(event.get("error") or "It gave no reason.")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.logs(20) if line.strip() and not line.startswith("--- ")]
        return f"Its last words: {lines[-1][-_LAST_WORDS:]}" if lines else ""

    def _shorten_log(self) -> None:
        try:
            if self._log.stat().st_size > _LOG_BYTES:
                os.truncate(self._log, 0)
        except OSError:
            pass


def _here() -> tuple[str, str]:
    """This node's address, and the folder where Ray keeps its logs and clears them away."""
    import ray
    from ray._private.worker import global_worker

    return str(ray.util.get_node_ip_address()), str(global_worker.node.get_logs_dir_path())


def _why_not_here(node: str) -> str:
    if importlib.util.find_spec("fcd") is not None:
        return ""
    return (
        f"fcd is not installed on the node {node} in Ray's own Python ({sys.executable}): "
        f"`{sys.executable} -m pip install 'fcd[ray]'` there."
    )


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _kill_group(pid: int) -> None:
    _signal_group(pid, signal.SIGKILL)


def free_resources() -> dict[str, dict[str, float]]:
    """What each node has free, asked from inside the cluster: a client from outside is not told."""
    import ray._private.state

    found: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()
    return found
