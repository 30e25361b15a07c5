"""Peers' own programs in environments of their own, which are built from the package index once and kept.

`FCD_TEST_PEERS` names the folder that it is kept in; without it, it is the user's cache. `FCD_REQUIRE_PEERS=1` makes a
build that fails an error instead of a reason to skip.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx2 as httpx
import platformdirs
import pytest
from filelock import FileLock

from tests.e2e.harness import free_port, wait_for

PINS = (
    "fschat==0.2.36",
    "pydantic==1.10.27",
    "fastapi==0.119.1",
    "starlette==0.48.0",
    "transformers==4.45.2",
    "tokenizers==0.20.3",
    "huggingface_hub==0.36.2",
    "accelerate==1.15.0",
    "sentencepiece",
    "protobuf",
    "psutil",
)
"""The newest set with which release 0.2.36 also streams. torch is the one of the tests: it is large."""
WEB_PINS = (
    "fschat==0.2.36",
    "gradio==4.44.1",
    "gradio_client==1.3.0",
    "pydantic==2.10.6",
    "fastapi==0.119.1",
    "starlette==0.48.0",
    "transformers==4.45.2",
    "tokenizers==0.20.3",
    "huggingface_hub==0.36.2",
    "accelerate==1.15.0",
    "psutil",
)
"""The web interface needs pydantic 2, with which the API server of release 0.2.36 cannot stream: a set of its own."""
_BUILD_S = 240


def fastchat_python() -> Path:
    return peer_python("fastchat", PINS)


def fastchat_web_python() -> Path:
    return peer_python("fastchat-web", WEB_PINS)


def peer_python(name: str, pins: Sequence[str]) -> Path:
    """The interpreter of a peer's environment; builds it the first time. Skips the test where that cannot be done."""
    mark = hashlib.sha256(json.dumps([pins, sys.version, sys.prefix]).encode()).hexdigest()[:12]
    kept = os.environ.get("FCD_TEST_PEERS") or platformdirs.user_cache_dir("fcd-tests")
    folder = Path(kept) / f"{name}-{mark}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=2 * _BUILD_S):
            if not (folder / "complete").exists():
                _build(folder, python, pins)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        reason = f"{name}'s environment cannot be built in {folder}: {said.strip().splitlines()[-1:]}"
        if os.environ.get("FCD_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return python


def _build(folder: Path, python: Path, pins: Sequence[str]) -> None:
    import torch

    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    # What is not in the environment itself is found where the tests found it: torch, and what torch needs.
    (site / "of_the_tests.pth").write_text(f"{Path(torch.__file__).parent.parent}\n")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins],
        check=True,
        capture_output=True,
        text=True,
        timeout=_BUILD_S,
    )
    (folder / "complete").touch()


class Programs:
    """FastChat's programs, started and ended."""

    def __init__(self, python: Path, logs: Path) -> None:
        self._python = python
        self._logs = logs
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """`python -m fastchat.serve.MODULE ...` in the background."""
        log: IO[bytes] = (self._logs / f"{module}-{len(self.running)}.log").open("wb")
        process = subprocess.Popen(
            [str(self._python), "-m", f"fastchat.serve.{module}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._environ(),
            cwd=self._logs,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        return subprocess.run(
            [str(self._python), "-m", f"fastchat.serve.{module}", *arguments],
            capture_output=True,
            text=True,
            env=self._environ(),
            cwd=self._logs,
            timeout=120,
            check=False,
        )

    def controller(self) -> str:
        port = free_port()
        self.start("controller", "--host", "127.0.0.1", "--port", str(port))
        url = f"http://127.0.0.1:{port}"
        self._wait(lambda: httpx.get(f"{url}/test_connection").status_code == 200, "the controller")
        return url

    def worker(self, controller: str, model: Path, *arguments: str) -> tuple[str, subprocess.Popen[bytes]]:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        where = ("--host", "127.0.0.1", "--port", str(port), "--worker-address", url)
        process = self.start(
            "model_worker", *where, "--controller-address", controller, "--model-path", str(model), *arguments
        )
        self._wait(lambda: httpx.post(f"{url}/worker_get_status").status_code == 200, "the worker")
        return url, process

    def api_server(self, controller: str) -> str:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.start("openai_api_server", "--host", "127.0.0.1", "--port", str(port), "--controller-address", controller)
        self._wait(lambda: httpx.get(f"{url}/docs").status_code == 200, "the API server")
        return url

    def web_server(self, controller: str, *arguments: str) -> str:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        where = ("--host", "127.0.0.1", "--port", str(port))
        self.start("gradio_web_server", *where, "--controller-url", controller, *arguments)
        self._wait(lambda: httpx.get(f"{url}/config").status_code == 200, "the web interface")
        return url

    def _wait(self, condition: object, what: str) -> None:
        def reached() -> bool:
            assert all(process.poll() is None for process in self.running[-1:]), self.logs()
            try:
                return bool(condition())  # type: ignore[operator]
            except httpx.HTTPError:
                time.sleep(0.1)
                return False

        wait_for(reached, within=90, what=what)

    def logs(self, length: int = 2000) -> str:
        """The last so many characters of each program's log."""
        return "\n".join(f"{log.name}: {log.read_text()[-length:]}" for log in sorted(self._logs.glob("*.log")))

    def _environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FCD_", "PYTHON"))}
        more = {"HF_HUB_OFFLINE": "1", "LOGDIR": "", "OMP_NUM_THREADS": "2", "FASTCHAT_WORKER_HEART_BEAT_INTERVAL": "2"}
        gradio = {"GRADIO_ANALYTICS_ENABLED": "False", "MPLCONFIGDIR": str(self._logs / "matplotlib")}
        return {**kept, **more, **gradio}

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def programs(logs: Path, python: Path | None = None) -> Iterator[Programs]:
    logs.mkdir(parents=True, exist_ok=True)
    found = Programs(python or fastchat_python(), logs)
    try:
        yield found
    finally:
        found.end()


def readable_by_older(folder: Path) -> Path:
    """A model that transformers 5 wrote, made readable for the transformers 4 that FastChat needs."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config))
    return folder
