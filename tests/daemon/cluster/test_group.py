"""A worker over two nodes that are both this process, with a program in vLLM's place: the parts start together, one
that cannot start says why, and none outlives the first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.on_gpu.multinode import LocalPeer
from daemon.cluster.group import Group
from daemon.cluster.host import WorkerHost
from daemon.cluster.part import PartHost
from fcd import __version__
from tests.tiny_models import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="unix sockets")]

STAND_IN = Path(__file__).resolve().parents[2] / "vllm_stand_in.py"
ADDRESS = "127.0.0.1"


class Pair:
    """Both nodes. `fails` is the stand-in's way to fail, on the second alone if so said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = folder / "home" / "config" / "config.toml"
        config.parent.mkdir(parents=True)
        lines = ["[engines.vllm]", f'command = "{sys.executable} {STAND_IN}"', "[engines.vllm.env]"]
        config.write_text("\n".join([*lines, f'STAND_IN_STATE = "{folder}"', ""]))
        self.hosts: list[WorkerHost] = []
        self.parts: list[PartHost] = []

    def environ(self, fails: str) -> dict[str, str]:
        return {"FCD_HOME": str(self.folder / "home"), "STAND_IN_FAILS": fails, "HF_HUB_OFFLINE": "1"}

    def launch(self) -> dict[str, Any]:
        arguments = [str(tiny_model("llama")), "--model-names", "m", "--engine", "vllm", "--num-gpus", "2"]
        plain = {"controller": "", "token": "", "token_id": "", "version": __version__, "on_loopback": True}
        return {**plain, "arguments": arguments, "gpus": 1, "parts": ["local"]}

    def part(self, fails: str = "") -> PartHost:
        self.parts.append(PartHost("second", lambda: (ADDRESS, str(self.folder)), self.environ(fails)))
        return self.parts[-1]

    def start(self, *, first: str = "", second: str = "") -> WorkerHost:
        peers = [LocalPeer(self.part(second))]
        find = lambda: (ADDRESS, str(self.folder))  # noqa: E731
        self.hosts.append(WorkerHost(self.launch(), "first", find, peers, self.environ(first)))
        return self.hosts[-1]

    def end(self) -> None:
        for host in self.hosts:
            host.stop(5.0)
            until(lambda host=host: host.status()["state"] == "stopped", "it has stopped")  # type: ignore[misc]
        for part in self.parts:
            part.rest()
            until(lambda part=part: part.status("", 0)["state"] == "idle", "the part rests")  # type: ignore[misc]
        assert not [each for each in psutil.Process().children(recursive=True) if "stand_in" in str(each.cmdline())]


def until(condition: Callable[[], bool], what: str, within: float = 40.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        yield made
    finally:
        made.end()


def test_a_start_that_is_mended_is_followed_anew(pair: Pair) -> None:
    host = pair.start(first="kv_once", second="kv_once")
    until(lambda: host.status()["state"] in ("ready", "failed"), f"it serves: {host.status()}")
    status = host.status()
    assert (status["state"], status["restarts"]) == ("ready", 0), status
    assert [(each["state"], each["node"]) for each in status["parts"]] == [("ready", ADDRESS)]
    # Both were started twice, the second time with what fits.
    follower = psutil.Process(status["parts"][0]["pid"])
    words = [" ".join(each.cmdline()) for each in follower.children(recursive=True)]
    assert any("--headless" in each and "--max-model-len 992" in each for each in words), words
    assert "[127.0.0.1] " in "\n".join(host.logs(1000))


def test_a_part_that_cannot_start_is_the_reason(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.cluster.host._OWN_REASON_S", 1.0)
    host = pair.start(second="library")
    until(lambda: host.status()["state"] == "failed", f"it fails: {host.status()}")
    assert host.status()["error"].startswith(f"Its part on the node {ADDRESS} ended: The library libcudart.so.13 is")
    # It can be tried again.
    before = host.status()["restarts"]
    host.restart()
    until(lambda: host.status()["restarts"] > before, "it is tried again")


def test_the_first_nodes_own_reason_goes_before(pair: Pair) -> None:
    host = pair.start(first="gated")
    until(lambda: host.status()["state"] == "failed", f"it fails: {host.status()}")
    assert "hub gives this model only to those who asked for it" in host.status()["error"]


def test_a_part_ends_when_the_first_node_is_not_heard_of(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.cluster.part._LEASE_S", 3.0)
    part = pair.part()
    group = Group([LocalPeer(part)], ADDRESS, pair.launch(), lambda text: None)
    until(group.prepare, "it is ready for a start")
    pid = group.states(serves=False)[0]["pid"]
    assert psutil.pid_exists(pid)
    until(lambda: not psutil.pid_exists(pid), "it ends")
    until(lambda: part.status("", 0)["state"] == "ended", "and says so")
    assert "Nothing was heard of the first node" in part.status("", 0)["error"]
