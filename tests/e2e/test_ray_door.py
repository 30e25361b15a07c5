"""Who gets in: to a cluster only with its token, to the daemon only with the worker's; through Ray's client too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from daemon.cluster.link import AgentLink
from daemon.cluster.messages import AgentError
from tests.e2e.harness import Home, chat, free_port, is_running, wait_for
from tests.e2e.ray_cluster import RayCluster, ray_cluster, workers_of

pytestmark = pytest.mark.slow

MODEL, NAME = "guide-mini", "guide-mini-ray-1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(client_port=free_port()) as made:
        yield made


def refusal(folder: Path, on: str, environ: dict[str, str]) -> AgentError:
    """Why a daemon with this environment cannot use a cluster."""

    async def main() -> AgentError:
        link = AgentLink(on, log=folder / "cluster.log", cwd=folder, environ=environ)
        try:
            with pytest.raises(AgentError) as refused:
                await link.connect()
            assert not link.connected
            return refused.value
        finally:
            await link.close()

    return asyncio.run(main())


def test_no_token_no_entry_to_the_cluster(cluster: RayCluster, tmp_path: Path) -> None:
    client = f"ray://127.0.0.1:{cluster.client_port}"
    for on in ("ray", client):
        wrong = refusal(tmp_path, on, {**cluster.environ, "RAY_AUTH_TOKEN": "f" * 32})
        assert wrong.code == "ray_token"
        assert "does not take the token" in wrong.message
    nowhere = {**cluster.environ, "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    none = refusal(tmp_path, "ray", nowhere)
    assert none.code == "no_ray_token"
    assert "ray get-auth-token --generate" in none.hint
    silent = refusal(tmp_path, f"ray://127.0.0.1:{free_port()}", cluster.environ)
    assert silent.code == "cluster_unreachable"
    homeless = {name: value for name, value in cluster.environ.items() if name != "RAY_ADDRESS"}
    absent = refusal(tmp_path, "ray", {**homeless, "RAY_TMPDIR": str(tmp_path)})
    assert absent.code == "no_cluster"
    assert "--on ray://HEAD" in absent.hint


def test_a_cluster_that_lets_strangers_in_is_not_used(tmp_path: Path) -> None:
    with ray_cluster(token="") as open_cluster:
        refused = refusal(tmp_path, "ray", {**open_cluster.environ, "RAY_AUTH_TOKEN": "a" * 32})
    assert refused.code == "open_cluster"
    assert "asks for no token" in refused.message
    assert "RAY_AUTH_MODE=token" in refused.hint


def test_a_machine_beside_the_cluster_uses_it_through_rays_client(cluster: RayCluster, tmp_path: Path) -> None:
    cluster.add("a", num_cpus=1)
    home = Home(tmp_path)
    home.environ |= {name: value for name, value in cluster.environ.items() if name.startswith("RAY_AUTH")}
    home.environ |= {"FCD_DAEMON_DRAIN_S": "5"}
    home.fcd("daemon", "start")
    try:
        home.fcd("worker", "start", MODEL, "--on", f"ray://127.0.0.1:{cluster.client_port}")
        wait_for(lambda: worker(home)["state"] == "ready", what="it serves")
        assert chat(home.url, "Hello", model=MODEL, max_tokens=4)["choices"]
        assert "is ready" in home.fcd("worker", "logs", NAME).stdout

        # Its token is for it alone, and for as long as it is wanted.
        pid = worker(home)["pid"]
        token = psutil.Process(pid).environ()["FCD_JOIN_TOKEN"]
        assert register(home, "") == 401
        assert register(home, token) == 403
        agents = [
            each.pid for each in psutil.Process(home.status()["pid"]).children() if "agent" in str(each.cmdline())
        ]
        assert len(agents) == 1
        home.fcd("worker", "stop", NAME)
        wait_for(lambda: workers_of(home) == [], within=30, what="it is gone")
        assert register(home, token) == 401
        assert not is_running(pid)
        assert cluster.reserved() == []
        wait_for(lambda: not is_running(agents[0]), within=10, what="no agent stays without a worker")
    finally:
        home.stop()


def worker(home: Home) -> dict[str, Any]:
    (found,) = workers_of(home)
    return found


def register(home: Home, token: str) -> int:
    """What a stranger's registration for another model is answered."""
    body = {
        "worker_name": "http://127.0.0.1:9",
        "check_heart_beat": True,
        "worker_status": {"model_names": ["another"], "speed": 1, "queue_length": 0},
    }
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(f"{home.url}/register_worker", json=body, headers=headers).status_code


def test_without_ray_the_command_to_install_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.cluster.link.importlib.util.find_spec", lambda name: None)
    refused = refusal(tmp_path, "ray", dict(os.environ))
    assert refused.code == "no_ray"
    assert "pip install 'fcd[ray]'" in refused.hint
