"""A daemon of one's own for a measurement, driven over the command line, and what the driver says of the GPUs."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]


class Home:
    """One FCD_HOME with vLLM configured: `engine` is the line of config.toml that says where it is."""

    def __init__(self, folder: Path, engine: str, env: dict[str, str]) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FCD_")}
        path = os.pathsep.join([str(ROOT), *filter(None, (kept.get("PYTHONPATH", ""),))])
        own = {"FCD_HOME": str(folder), "FCD_PORT": str(self.port), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
        self.environ = {**kept, **own, "NO_COLOR": "1"}
        config = folder / "config" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            "[daemon]",
            "max_queue = 2048",
            "[worker]",
            "max_batch = 256",
            "max_waiting = 1024",
            "[engines.vllm]",
            engine,
            "[engines.vllm.env]",
        ]
        config.write_text("\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in env.items())]) + "\n")

    def fcd(self, *words: str, limit_s: float = 60.0) -> str:
        """Raises RuntimeError with what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "fcd", *words],
            capture_output=True,
            text=True,
            env=self.environ,
            cwd=ROOT,
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"fcd {' '.join(words)}: {done.stderr.strip()[-1500:]}")
        return done.stdout

    def load(self, folder: Path, *flags: str, limit_s: float = 300.0) -> float:
        """Seconds until the model answers."""
        began = time.monotonic()
        self.fcd("load", str(folder), *flags, limit_s=limit_s)
        return time.monotonic() - began

    def workers(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.fcd("worker", "list", "--json"))
        return listed

    def worker(self, model: str) -> dict[str, Any]:
        return next(each for each in self.workers() if model in each["models"])

    def processes(self, model: str) -> dict[str, psutil.Process]:
        """The worker's program, vLLM's server below it, and the server's first child, which is its engine."""
        program = psutil.Process(self.worker(model)["pid"])
        guard = next(each for each in program.children() if any("guard.py" in word for word in each.cmdline()))
        found = {"worker": program, "guard": guard, "server": guard.children()[0]}
        # The engine is the child that runs on: helpers of multiprocessing count semaphores and the like.
        children = found["server"].children()
        children.sort(key=lambda each: each.memory_info().rss, reverse=True)
        found["engine"] = children[0]
        return found

    def socket_of(self, model: str) -> str:
        found = re.findall(r"on unix:(\S+)", self.log_of(model))
        if not found:
            raise RuntimeError("the log does not say where vLLM listens")
        return str(found[-1])

    def pid(self) -> int:
        return int(json.loads(self.fcd("daemon", "status", "--json"))["pid"])

    def log_of(self, model: str) -> str:
        try:
            return Path(self.worker(model)["log"]).read_text(errors="replace")
        except (OSError, StopIteration, RuntimeError):
            return ""

    def stop(self) -> None:
        subprocess.run(
            [sys.executable, "-m", "fcd", "daemon", "stop"], capture_output=True, env=self.environ, cwd=ROOT, timeout=90
        )


def gpu_used() -> list[float]:
    """GiB in use on each GPU; none where there is no driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return [float(line) / 1024 for line in done.stdout.split("\n") if line.strip().replace(".", "").isdigit()]


def wait_until(condition: Callable[[], bool], limit_s: float, every_s: float = 0.25) -> float:
    """Seconds that it took, or -1."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if condition():
            return time.monotonic() - began
        time.sleep(every_s)
    return -1.0
