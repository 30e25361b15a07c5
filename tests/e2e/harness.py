"""Starts a real daemon in a home of its own and talks to it over real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2 as httpx
import psutil

T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], T], *, within: float = 60.0, what: str = "") -> T:
    """The condition's first true value; fails when there is none in time."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what or condition}"
        time.sleep(0.05)


class Home:
    """One FCD_HOME and the environment that points at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # A terminal's size is its own: COLUMNS and LINES would speak over it.
        foreign = ("FCD_", "COLUMNS", "LINES")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environ = {
            **kept,
            "FCD_HOME": str(folder),
            "FCD_PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
            "FCD_TORCH_THREADS": os.environ.get("FCD_TORCH_THREADS", "2"),
            "NO_COLOR": "1",
        }

    def fcd(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        options = {"timeout": 180, "stdin": subprocess.DEVNULL, **options}
        if "input" in options:
            options.pop("stdin")
        done = subprocess.run(
            [sys.executable, "-m", "fcd", *arguments], capture_output=True, text=True, env=self.environ, **options
        )
        if check:
            assert done.returncode == 0, f"fcd {' '.join(arguments)} -> {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "fcd", *arguments], text=True, env=self.environ, **options)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.fcd("daemon", "status", "--json").stdout)
        return answer

    def workers(self) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = self.status()["workers"]
        return workers

    def worker_pid(self, model: str = "guide") -> int:
        return next(worker["pid"] for worker in self.workers() if model in worker["models"])

    def stop(self) -> None:
        self.fcd("daemon", "stop", check=False)


@contextmanager
def running_daemon(folder: Path) -> Iterator[Home]:
    home = Home(folder)
    home.fcd("daemon", "start")
    try:
        yield home
    finally:
        home.stop()


def chat(url: str, prompt: str, *, model: str = "guide", **fields: Any) -> dict[str, Any]:
    """One chat completion that does not stream."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    decoded: dict[str, Any] = answer.json()
    return decoded


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
