"""What runs on each further node of a worker that is spread over several: starts the part that has no server, and ends
it with the first node's. Travels there by value: the standard library only.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from daemon.cluster.run import EXIT_USAGE, LogFile, Run, here, how, why_not_here

_LEASE_S = 20.0
"""The first node asks how it stands twice a second: one that does not for so long is gone."""
_POLL_S = 0.2
_GRACE_S = 12.0


class PartHost:
    """One node's part. Its methods return at once; a thread of its own looks after the process.

    The first node says what is to run: a `run` is one start of the whole. Within it, each start of the first node's
    engine is told with `follow`, and each of these gets a program of its own.

    Args:
        name: what the log is called.
        find: this node's address, and the folder for logs.
        env: variables for the program, over those of this process.
    """

    def __init__(
        self, name: str, find: Callable[[], tuple[str, str]] | None = None, env: dict[str, str] | None = None
    ) -> None:
        self._node, folder = (find or here)()
        self._log = LogFile(Path(folder) / f"{name}.log")
        self._env = env or {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._run = ""
        self._number = 0
        """Of the first node's starts in this run, the one that is followed."""
        self._line = ""
        self._wanted = 0
        """Counts the programs that were asked for; the newest is to run, none while it rests."""
        self._resting = True
        self._launch: dict[str, Any] = {}
        self._part: dict[str, Any] = {}
        self._heard = time.monotonic()
        self._state = "idle"
        self._error = ""
        self._said = ""
        self._pid = 0
        self._progress: dict[str, Any] | None = None
        threading.Thread(target=self._keep, name="fcd-part", daemon=True).start()

    # What the first node asks

    def begin(self, run: str, part: dict[str, Any], launch: dict[str, Any]) -> None:
        """End what runs, and make ready for a start of the whole."""
        with self._lock:
            if run == self._run:
                return
            self._run, self._part, self._launch = run, part, launch
            self._number, self._line = 0, ""
            self._ask()
        self._wake.set()

    def follow(self, run: str, number: int, line: str) -> None:
        """The first node's engine starts: start the part of it that is here."""
        with self._lock:
            if run != self._run or self._resting:
                return
            if self._number or self._state == "ended":
                self._ask()
            self._number, self._line = number, line
        self._wake.set()

    def rest(self) -> None:
        """End what runs."""
        with self._lock:
            self._resting = True
        self._wake.set()

    def status(self, run: str, place: int) -> dict[str, Any]:
        """How it stands, and what was added to its log behind a place."""
        text, place = self._log.after(place)
        with self._lock:
            if run == self._run:
                self._heard = time.monotonic()
            return {
                "run": self._run,
                "number": self._number,
                "state": self._state,
                "error": self._error,
                "said": bool(self._said),
                "pid": self._pid,
                "node": self._node,
                "progress": self._progress,
                "text": text,
                "place": place,
            }

    # The thread

    def _ask(self) -> None:
        self._wanted += 1
        self._resting = False
        self._heard = time.monotonic()
        self._state, self._error, self._said, self._progress = "starting", "", "", None

    def _keep(self) -> None:
        done = 0
        while True:
            with self._lock:
                wanted, rests = self._wanted, self._resting
                if rests:
                    done, self._state = wanted, "idle"
            if wanted > done:
                done = wanted
                self._live(wanted)
                continue
            self._wake.wait(1.0)
            self._wake.clear()

    def _live(self, wanted: int) -> None:
        """One program, from its start until nothing of it is left."""
        problem, code, run = why_not_here(self._node), -1, None
        if not problem:
            try:
                with self._lock:
                    launch, part = self._launch, json.dumps({**self._part, "host": self._node})
                heard = partial(self._heard_of, wanted)
                run = Run(launch, self._node, self._log, heard, {**self._env, "FCD_VLLM_PART": part})
            except OSError as error:
                problem = f"It cannot be started: {error}."
        reason = problem
        if run is not None:
            with self._lock:
                self._pid = run.pid
            reason = self._stay(run, wanted)
            code = run.finish()
        with self._lock:
            self._pid = 0
            if wanted == self._wanted and not self._resting:
                self._state = "ended"
                if code == EXIT_USAGE:
                    problem = problem or self._log.last_words()
                self._said = self._said or problem
                self._error = self._said or reason or f"It ended with {how(code)}. {self._log.last_words()}".strip()

    def _stay(self, run: Run, wanted: int) -> str:
        """Until it has ended, or is to end; why it was ended, if nobody asked for that."""
        told = False
        while not run.ended():
            with self._lock:
                line, stale = self._line, wanted != self._wanted or self._resting
                silent = time.monotonic() - self._heard > _LEASE_S
            if stale or silent:
                run.stop(_GRACE_S)
                return f"Nothing was heard of the first node for {_LEASE_S:g} s." if silent and not stale else ""
            if line and not told:
                told = True
                run.tell(line)
            self._log.shorten()
            self._wake.wait(_POLL_S)
            self._wake.clear()
        return ""

    def _heard_of(self, wanted: int, event: dict[str, Any]) -> None:
        with self._lock:
            if wanted != self._wanted:
                return
            if event["event"] == "progress":
                self._progress = event.get("progress")
                self._state = "loading" if self._state in ("starting", "ready") else self._state
            elif event["event"] == "ready":
                self._progress = None
                self._state = "ready" if self._state in ("starting", "loading") else self._state
            elif event["event"] == "error":
                self._said = str(event.get("error") or "It gave no reason.")
