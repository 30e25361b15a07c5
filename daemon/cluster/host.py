"""What runs on a cluster's node: starts the worker program there, watches it, and brings it back.

The code travels to the node by value and uses the standard library only, so that a node whose fcd is missing or another
version can still say so. No request passes through here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daemon.cluster.group import Group, Peer, RayPeer
from daemon.cluster.run import EXIT_USAGE, LogFile, Run, here, how, why_not_here

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0
_RESTART_GRACE_S = 30.0
_STABLE_S = 60.0
"""A worker that served so long has paid for its earlier deaths."""
_POLL_S = 0.2
_PARTS_END_S = 15.0
_OWN_REASON_S = 15.0
"""While it starts, what broke here may show at a part first: its own reason is waited for so long."""


class WorkerHost:
    """One worker on this node, or the first node of several. Its methods return at once; a thread watches the process.

    Args:
        launch: `arguments`, `controller`, `token`, `token_id`, `version`, `on_loopback`, `gpus`, `parts`: see
            `messages.Launch`.
        name: what the log is called.
        find: this node's address, and the folder for logs.
        peers: the ways to the other nodes' parts.
        env: variables for the program, over those of this process.
    """

    def __init__(
        self,
        launch: dict[str, Any],
        name: str,
        find: Callable[[], tuple[str, str]] | None = None,
        peers: Sequence[Peer] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self._launch = launch
        self._node, folder = (find or here)()
        self._log = LogFile(Path(folder) / f"{name}.log")
        self._peers = peers
        self._env = env or {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._run: Run | None = None
        self._group: Group | None = None
        self._state = "starting"
        self._error = ""
        self._said = ""
        """What this run of the worker gave as its reason."""
        self._broke = ""
        """Why this run was ended, where one of its other nodes was the cause."""
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
            run, group = self._run, self._group
            return {
                "state": self._state,
                "error": self._error,
                "restarts": self._restarts,
                "pid": run.pid if run is not None else 0,
                "node": self._node,
                "controller": self._launch["controller"],
                "token_id": self._launch.get("token_id", ""),
                "started_at": self._started_at,
                "progress": self._progress if self._state in ("starting", "loading") else None,
                "log": str(self._log.path),
                "parts": group.states(serves=self._state == "ready") if group is not None else [],
            }

    def logs(self, lines: int) -> list[str]:
        """The end of the worker's log."""
        return self._log.lines(lines)

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
            code = self._live()
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

    def _live(self) -> int:
        """Start it and stay until nothing of it is left, here and on its other nodes; its return code."""
        with self._lock:
            self._state, self._progress, self._was_ready = "starting", None, False
            self._said = self._broke = ""
            self._started_at = time.time()
            launch = self._launch
            parts = launch.get("parts") or ()
            peers = self._peers if self._peers is not None else [RayPeer(name) for name in parts]
            group = self._group = Group(peers, self._node, launch, self._log.add) if parts else None
        problem = why_not_here(self._node)
        if problem:
            self._said = problem
            return EXIT_USAGE
        try:
            if group is not None and not self._gather(group):
                return 1
            return self._work(launch, group)
        finally:
            if group is not None:
                group.end(_PARTS_END_S)

    def _gather(self, group: Group) -> bool:
        """Wait until the other nodes are ready for a start; whether they are."""
        while not self._is_to_end():
            if group.prepare():
                return True
            reason, said = group.broken()
            if reason:
                self._blame(reason, said)
                return False
            with self._lock:
                self._progress = group.waits_for()
                self._state = "loading" if self._state == "starting" else self._state
            self._pause(_POLL_S)
        return False

    def _work(self, launch: dict[str, Any], group: Group | None) -> int:
        """The worker program itself."""
        env = self._env if group is None else {**self._env, "FCD_VLLM_PART": group.part()}
        try:
            run = Run(launch, self._node, self._log, self._heard, env)
        except OSError as error:
            self._said = f"It cannot be started: {error}."
            return 1
        with self._lock:
            self._run = run
        self._stay(run, group)
        code = run.finish()
        with self._lock:
            self._run = None
        return code

    def _stay(self, run: Run, group: Group | None) -> None:
        """Until it has ended, by itself, because that was asked for, or because another node's part is lost."""
        broken_at, start = 0.0, 0
        while not run.ended():
            self._pause(_POLL_S)
            self._log.shorten()
            if self._is_to_end():
                run.stop(self._grace_s if self._grace_s >= 0 else _RESTART_GRACE_S)
                continue
            reason, said = group.broken() if group is not None else ("", False)
            if not reason or group is None:
                broken_at = 0.0
                continue
            if not broken_at or group.number != start:
                broken_at, start = time.monotonic(), group.number
            if self._was_ready or time.monotonic() - broken_at >= _OWN_REASON_S:
                # What it is at cannot be finished without the part.
                run.kill()
                self._blame(reason, said)
                return

    def _blame(self, reason: str, said: bool) -> None:
        if said and not self._said:
            self._said = reason
        self._broke = reason

    def _is_to_end(self) -> bool:
        return self._grace_s >= 0 or self._again

    def _pause(self, limit_s: float) -> None:
        self._wake.wait(limit_s)
        self._wake.clear()

    def _rest(self, code: int, deaths: int) -> None:
        """Say why it ended, and wait before it is started again; for ever if that would change nothing."""
        hopeless = (bool(self._said) or code == EXIT_USAGE) and not self._was_ready
        wait = 0.0 if self._was_ready and deaths == 1 else min(_FIRST_WAIT_S * 2 ** (deaths - 1), _LONGEST_WAIT_S)
        with self._lock:
            ended = f"It ended with {how(code)}. {self._log.last_words()}".strip()
            self._error = self._said or self._broke or ended
            self._restarts += 1
            self._state = "failed" if hopeless else "backoff"
        deadline = float("inf") if hopeless else time.monotonic() + wait
        while not self._is_to_end() and time.monotonic() < deadline:
            self._pause(min(0.5, max(0.0, deadline - time.monotonic())))
        with self._lock:
            self._again = False

    # What the worker says

    def _heard(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "follow" and self._group is not None:
            self._group.follow(str(event["follow"]))
        elif kind == "error":
            self._said = str(event.get("error") or "It gave no reason.")
        elif kind == "progress":
            with self._lock:
                self._progress = event.get("progress")
                self._state = "loading" if self._state == "starting" else self._state
        elif kind == "ready":
            with self._lock:
                self._was_ready, self._error = True, ""
                self._state = "ready" if self._state in ("starting", "loading") else self._state


def free_resources() -> dict[str, dict[str, float]]:
    """What each node has free, asked from inside the cluster: a client from outside is not told."""
    import ray._private.state

    found: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()
    return found
