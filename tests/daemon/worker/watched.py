"""`fcd worker run` as a process, watched as the supervisor watches it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e.harness import is_running, wait_for


class WatchedWorker:
    """One worker that registers nowhere, and the events that it prints. Whatever it starts writes its pid to `pids`."""

    def __init__(self, home: Path, *words: str, config: str, environ: Mapping[str, str]) -> None:
        self.home = home
        self.pids = home / "pids"
        self.events: list[dict[str, Any]] = []
        (home / "config").mkdir(parents=True, exist_ok=True)
        (home / "config" / "config.toml").write_text(config)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FCD_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fcd", "worker", "run", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(home / "log").open("w"),
            env={**kept, "FCD_HOME": str(home), "FCD_PARENT_WATCH": "1", **environ},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.output = self.process.stdout

    def event(self, kind: str) -> dict[str, Any]:
        """The next one of this kind; those before it are in `events`."""
        for line in self.output:
            found: dict[str, Any] = json.loads(line)
            self.events.append(found)
            if found["event"] == kind:
                return found
        raise AssertionError(f"no {kind} event: {(self.home / 'log').read_text()[-3000:]}")

    def noted(self) -> list[list[str]]:
        """The words of each line of `pids`; the last one is the pid."""
        return [line.split() for line in self.pids.read_text().splitlines()] if self.pids.exists() else []

    def is_gone(self) -> bool:
        return not any(is_running(int(words[-1])) for words in self.noted())


W = TypeVar("W", bound=WatchedWorker)


@contextmanager
def until_gone(worker: W) -> Iterator[W]:
    """The worker, which is killed at the end: what it started must go with it."""
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.communicate()
        wait_for(worker.is_gone, within=10, what="nothing of it is left")
