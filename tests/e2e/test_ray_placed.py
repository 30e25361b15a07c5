"""Workers on a Ray cluster of several nodes: placed, spread, pending, crashed, moved, adopted, stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from tests.e2e.harness import Home, chat, free_port, is_running, wait_for
from tests.e2e.ray_cluster import RayCluster, ray_cluster, workers_of

pytestmark = pytest.mark.slow

MODEL = "guide-mini"
FIRST, SECOND = f"{MODEL}-ray-1", f"{MODEL}-ray-2"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(client_port=free_port()) as made:
        yield made


def home_for(cluster: RayCluster, folder: Path, **environ: str) -> Home:
    home = Home(folder)
    home.environ |= {name: value for name, value in cluster.environ.items() if name.startswith("RAY_")}
    home.environ |= {"FCD_DAEMON_DRAIN_S": "5", **environ}
    return home


def workers(home: Home) -> dict[str, dict[str, Any]]:
    return {worker["name"]: worker for worker in workers_of(home)}


def all_ready(home: Home, *names: str) -> dict[str, dict[str, Any]]:
    """The workers, when all of these serve and the cluster has said where."""

    def reached() -> dict[str, dict[str, Any]]:
        found = workers(home)
        wanted = [found.get(name, {}) for name in names]
        return found if all(each.get("state") == "ready" and each.get("pid") for each in wanted) else {}

    return wait_for(reached, within=120, what=f"{names} are ready: {workers(home)}")


def again(home: Home, name: str, pids: dict[str, int]) -> None:
    """Wait until a worker is another process than it was."""
    wait_for(lambda: workers(home)[name].get("pid", 0) not in (0, pids[name]), what=f"{name} starts again")


def raylet_of(pid: int) -> int:
    """The node's own process, above the actor that started a worker."""
    above = psutil.Process(pid).parents()
    return next(each.pid for each in above if "raylet" in each.name())


def actor_of(pid: int) -> psutil.Process:
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent


def end(home: Home, cluster: RayCluster, *names: str) -> None:
    """Stop workers; nothing of them is left, neither processes nor reservations."""
    pids = [worker["pid"] for worker in workers(home).values() if worker["name"] in names and worker.get("pid")]
    for name in names:
        home.fcd("worker", "stop", name)
    wait_for(lambda: not set(names) & set(workers(home)), within=30, what="they are gone")
    assert not any(is_running(pid) for pid in pids)
    assert not any(name in reserved for name in names for reserved in cluster.reserved())


def test_a_cluster_places_workers_and_brings_them_back(cluster: RayCluster, tmp_path: Path) -> None:
    nodes = {cluster.add(name, num_cpus=2): name for name in ("a", "b")}
    home = home_for(cluster, tmp_path)
    home.fcd("daemon", "start")
    try:
        # Two replicas go to two nodes, though one would hold both.
        home.fcd("worker", "start", MODEL, "--on", "ray", "--replicas", "2")
        found = all_ready(home, FIRST, SECOND)
        pids = {name: found[name]["pid"] for name in (FIRST, SECOND)}
        assert len({raylet_of(pid) for pid in pids.values()}) == 2
        assert chat(home.url, "Hello", model=MODEL, max_tokens=4)["choices"]
        assert all(not worker.get("local", True) and worker["on"] == "ray" for worker in found.values())
        log = home.fcd("worker", "logs", FIRST).stdout
        assert f"{MODEL} is ready" in log
        assert "fcd-j-" not in log

        # What no node holds waits, and says what is asked and what there is.
        said = home.fcd("worker", "start", "guide", "--on", "ray", "--num-gpus", "1").stdout
        assert "guide-ray-1  pending" in said
        assert "It asks for 1 CPU, 1 GPU" in said
        assert "has 2 CPU, 0 GPU" in said
        model = httpx.post(f"{home.url}/v1/chat/completions", json={"model": "guide", "messages": []}, timeout=30)
        assert model.status_code in (400, 503)

        # A worker that is killed comes back; so does its actor, and nothing of it is left over.
        os.kill(pids[FIRST], signal.SIGKILL)
        again(home, FIRST, pids)
        actor = actor_of(pids[SECOND])
        actor.kill()
        wait_for(lambda: not is_running(pids[SECOND]), within=10, what="the worker ends with its actor")
        again(home, SECOND, pids)
        found = all_ready(home, FIRST, SECOND)
        assert found[FIRST]["restarts"] == 1
        pids = {name: found[name]["pid"] for name in (FIRST, SECOND)}

        # A killed daemon leaves the cluster's workers as they are, and the next one finds them.
        daemon = psutil.Process(home.status()["pid"])
        (agent,) = daemon.children()
        daemon.kill()
        wait_for(lambda: not is_running(agent.pid), within=10, what="the agent ends with the daemon")
        home.fcd("daemon", "start")
        found = all_ready(home, FIRST, SECOND)
        assert {name: found[name]["pid"] for name in (FIRST, SECOND)} == pids
        wait_for(lambda: workers(home)["guide-ray-1"]["state"] == "pending", what="what waits is remembered")
        assert sorted(name.rpartition("/")[2] for name in cluster.reserved()) == [FIRST, SECOND, "guide-ray-1"]

        # A node that is lost: its worker moves to the other.
        cluster.lose(nodes[raylet_of(pids[FIRST])])
        wait_for(lambda: not is_running(pids[FIRST]), within=15, what="the lost node's worker ends")
        assert chat(home.url, "Hello", model=MODEL, max_tokens=4)["choices"]
        again(home, FIRST, pids)
        found = all_ready(home, FIRST, SECOND)
        assert raylet_of(found[FIRST]["pid"]) == raylet_of(found[SECOND]["pid"])

        # A node with what was asked for joins.
        cluster.add("c", num_cpus=1, num_gpus=1)
        wait_for(lambda: workers(home)["guide-ray-1"]["state"] != "pending", what="it is placed")
        end(home, cluster, FIRST, SECOND, "guide-ray-1")
        assert home.fcd("token", "list", "--json").stdout.strip() in ("[]", "")
        assert cluster.reserved() == []
    except BaseException:
        print((tmp_path / "state" / "logs" / "daemon.log").read_text()[-5000:])
        raise
    finally:
        home.stop()
