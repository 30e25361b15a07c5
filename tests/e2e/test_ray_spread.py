"""One vLLM over two nodes of a Ray cluster, for which a program stands in: waits for enough nodes, ends and comes back
as a whole whichever part dies, is adopted, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.harness import Home, chat, free_port, is_running, wait_for
from tests.e2e.ray_cluster import RayCluster, ray_cluster, workers_of
from tests.tiny_models import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="unix sockets")]

STAND_IN = Path(__file__).resolve().parents[1] / "vllm_stand_in.py"
MODEL, NAME = "wide", "wide-ray-1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster(client_port=free_port()) as made:
        yield made


class Movable(Home):
    def move(self, port: int) -> None:
        """The daemon that starts next listens there."""
        self.port = port
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ["FCD_PORT"] = str(self.port)


class Whole:
    """The worker as the daemon shows it, and its processes on both nodes as they wrote themselves down."""

    def __init__(self, home: Home, cluster: RayCluster, folder: Path) -> None:
        self.home = home
        self.pids = folder / "pids"
        config = Path(cluster.environ["FCD_HOME"]) / "config" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(
            f'[engines.vllm]\ncommand = "{sys.executable} {STAND_IN}"\n'
            f'[engines.vllm.env]\nSTAND_IN_PIDS = "{self.pids}"\nSTAND_IN_STATE = "{folder}"\n'
        )

    def worker(self) -> dict[str, Any]:
        return next((each for each in workers_of(self.home) if each["name"] == NAME), {})

    def started(self) -> list[tuple[str, int]]:
        lines = self.pids.read_text().splitlines() if self.pids.exists() else []
        return [(kind, int(pid)) for kind, pid in (line.split() for line in lines)]

    def running(self) -> dict[str, int]:
        """The newest process of each kind, of those that run."""
        return {kind: pid for kind, pid in self.started() if is_running(pid)}

    def serving(self, before: dict[str, int] | None = None) -> dict[str, int]:
        """Its processes, once it serves with others than before."""

        def reached() -> dict[str, int]:
            found = self.running()
            fresh = before is None or not set(before.values()) & set(found.values())
            return found if fresh and len(found) == 4 and self.worker().get("state") == "ready" else {}

        found: dict[str, int] = wait_for(reached, within=90, what=f"it serves: {self.worker()}, {self.started()}")
        asked = chat(self.home.url, "Hello", model=MODEL, max_tokens=4)
        assert asked["choices"][0]["message"]["content"] == "w0 w1 w2 w3 "
        return found

    def all_gone(self, pids: dict[str, int]) -> None:
        wait_for(lambda: not any(is_running(pid) for pid in pids.values()), within=45, what=f"all of it ends: {pids}")


def raylet_of(pid: int) -> int:
    return next(each.pid for each in psutil.Process(pid).parents() if "raylet" in each.name())


def actor_of(pid: int) -> psutil.Process:
    """Above vLLM's server are its guard, the worker program, and the actor."""
    return psutil.Process(pid).parents()[2]


def test_a_model_larger_than_a_node_runs_over_two(cluster: RayCluster, tmp_path: Path) -> None:
    nodes = {cluster.add("a", num_cpus=1, num_gpus=1): "a"}
    home = Movable(tmp_path / "home")
    home.environ |= {name: value for name, value in cluster.environ.items() if name.startswith("RAY_")}
    home.environ |= {"FCD_DAEMON_DRAIN_S": "5"}
    whole = Whole(home, cluster, tmp_path)
    home.fcd("daemon", "start")
    try:
        # One node has not enough, and the reason says what would be.
        model = shutil.copytree(tiny_model("llama"), tmp_path / MODEL)
        words = ("--on", "ray", "--engine", "vllm", "--num-gpus", "2")
        said = home.fcd("worker", "start", str(model), *words).stdout
        assert f"{NAME}  pending" in said
        assert "Spread over 2 nodes it takes 1 CPU, 1 GPU on each, and 1 of the cluster's 2 has that." in said
        nodes[cluster.add("b", num_cpus=1, num_gpus=1)] = "b"
        first = whole.serving()
        assert set(first) == {"server", "engine", "follower", "part"}
        assert len({raylet_of(first["server"]), raylet_of(first["follower"])}) == 2
        shown = whole.worker()
        notes = [note for note in shown["notes"] if note.startswith("Over 2 nodes: ")]
        assert len(notes) == 1, shown
        assert notes[0].count("ready") == 2
        log = home.fcd("worker", "logs", NAME).stdout
        assert "It waits for steps of the first node" in log
        assert f"{MODEL} is ready" in log

        # Whichever part dies, the whole ends and starts again.
        os.kill(first["follower"], signal.SIGKILL)
        whole.all_gone(first)
        second = whole.serving(first)
        os.kill(second["server"], signal.SIGKILL)
        whole.all_gone(second)
        third = whole.serving(second)
        assert whole.worker()["restarts"] == 2

        # The next daemon finds it as it is; one at another address has it start again, to register there.
        psutil.Process(home.status()["pid"]).kill()
        home.fcd("daemon", "start")
        assert whole.serving() == third
        fourth = third
        for port in (free_port(), home.port):
            psutil.Process(home.status()["pid"]).kill()
            home.move(port)
            home.fcd("daemon", "start")
            fourth = whole.serving(fourth)

        # The actor comes back with what it was made with: the right address again, and a token that is no longer good.
        actor_of(fourth["server"]).kill()
        whole.all_gone(fourth)
        fifth = whole.serving(fourth)

        # A node that is lost takes its part along; the rest waits for another.
        cluster.lose(nodes[raylet_of(fifth["follower"])])
        whole.all_gone(fifth)
        reason = "is lost; it goes elsewhere. It asks for 1 CPU, 2 GPU on one node"
        wait_for(
            lambda: whole.worker()["state"] == "pending" and reason in whole.worker()["error"],
            within=60,
            what=f"it is pending: {whole.worker()}",
        )
        nodes[cluster.add("c", num_cpus=1, num_gpus=1)] = "c"
        last = whole.serving(fifth)

        # So does the first node, which nobody but its silence tells the others.
        cluster.lose(nodes[raylet_of(last["server"])])
        whole.all_gone(last)
        cluster.add("d", num_cpus=1, num_gpus=1)
        last = whole.serving(last)

        home.fcd("worker", "stop", NAME)
        wait_for(lambda: not whole.worker(), within=30, what="it is gone")
        whole.all_gone(last)
        assert not whole.running()
        assert cluster.reserved() == []
    except BaseException:
        print((home.folder / "state" / "logs" / "daemon.log").read_text()[-5000:])
        for log_file in Path(cluster.environ["RAY_TMPDIR"]).glob("**/fcd-*ray-1*.log"):
            print(log_file, log_file.read_text()[-4000:])
        raise
    finally:
        home.stop()
