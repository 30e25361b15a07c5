"""Starts `ray_nodes` and talks to it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from fcd.paths import resolve_paths
from tests.e2e.harness import Home

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef" * 2
_STOP_S = 20


def need_ray() -> None:
    """Skip the test where Ray is not installed; `FCD_REQUIRE_PEERS=1` makes that a failure."""
    missing = [name for name in ("ray", "grpc") if importlib.util.find_spec(name) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} cannot be imported: pip install 'fcd[ray]'"
    if os.environ.get("FCD_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class RayCluster:
    """A cluster whose nodes are all this machine."""

    def __init__(self, process: subprocess.Popen[str], environ: dict[str, str], client_port: int) -> None:
        self._process = process
        self.client_port = client_port
        self.address = str(self._read())
        self.environ = {**environ, "RAY_ADDRESS": self.address}
        """For a daemon that is to use it."""

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cluster ended"
        return json.loads(line)

    def _tell(self, method: str, **values: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, values]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def add(self, name: str, **resources: Any) -> int:
        """A node; the id of its own process."""
        pid: int = self._tell("add", name=name, **resources)
        return pid

    def lose(self, name: str) -> None:
        self._tell("lose", name=name)

    def reserved(self) -> list[str]:
        found: list[str] = self._tell("reserved")
        return found


def workers_of(home: Home) -> list[dict[str, Any]]:
    """What the daemon says of its workers; asked over HTTP, since a process for each look costs more than it."""
    token = resolve_paths({"FCD_HOME": str(home.folder)}).admin_token.read_text().strip()
    answer = httpx.get(f"{home.url}/api/workers", headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["workers"]
    return found


@contextmanager
def ray_cluster(*, token: str = TOKEN, client_port: int = 0) -> Iterator[RayCluster]:
    """A head without room for anything. An empty token: one that asks nobody for a token."""
    need_ray()
    # Its sockets' paths must be short.
    folder = tempfile.mkdtemp(prefix="fcd-ray-")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FCD_", "RAY_"))}
    environ = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])]),
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "token" if token else "disabled",
        # Ray would otherwise put another address in the place of 127.0.0.1.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Without it, what Ray's client server starts for a client dies of gRPC's handlers for fork() now and then.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "2",
        "FCD_HOME": f"{folder}/node",
        "HF_HUB_OFFLINE": "1",
        "FCD_TORCH_THREADS": "1",
    }
    if token:
        environ["RAY_AUTH_TOKEN"] = token
    with open(f"{folder}/nodes.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.ray_nodes", str(client_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environ,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        yield RayCluster(process, environ, client_port)
    except BaseException:
        print(Path(f"{folder}/nodes.log").read_text()[-2000:])
        raise
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _end(process: subprocess.Popen[str]) -> None:
    started = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for each in started:
        if each.is_running():
            each.kill()
