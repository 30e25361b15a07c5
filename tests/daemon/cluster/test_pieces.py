"""The pure parts: what is asked, what is missing, which node, the way back, the address and the token."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from daemon.cluster.asked import arguments_of, cluster_of, need_of, spread
from daemon.cluster.entry import head_of, own_token
from daemon.cluster.messages import AgentError, HostStatus, Node, Seen
from daemon.cluster.ray_calls import best_node
from daemon.cluster.reasons import gpus_by_memory, nodes_for, resources, share, state_of, why_pending
from daemon.cluster.way_back import controller_url
from daemon.scheduler.placement import Needs
from daemon.store.placements import Need
from daemon.supervisor.launch import LaunchSpec
from fcd.cli.placing import added_lines
from fcd.errors import ApiError
from fcd.wire.admin import ModelOptions, PlaceRequest

GIB = 2**30


def node(name: str, *, free: dict[str, float] | None = None, address: str = "", **total: float) -> Node:
    return Node(name, address or f"10.0.0.{len(name)}", name, total, total if free is None else free)


def test_a_need_becomes_a_bundle_of_what_it_names() -> None:
    assert resources(Need()) == {"CPU": 1.0}
    assert resources(Need(2, 1, GIB, 2048)) == {"CPU": 2.0, "GPU": 1.0, "memory": float(GIB), "vram_mib": 2048.0}


@pytest.mark.parametrize(
    ("need", "nodes", "words"),
    [
        (Need(), [], ["no node that lives"]),
        (Need(1, 2), [node("a", CPU=8, GPU=1)], ["1 CPU, 2 GPU", "more than any has", "a (10.0.0.1) has 8 CPU, 1 GPU"]),
        (Need(1, 2), [node("a", CPU=8, GPU=1), node("bb", CPU=8, GPU=1)], ["in vLLM only: --engine vllm"]),
        (Need(4), [node("a", CPU=8, free={"CPU": 1})], ["waits until", "a (10.0.0.1) has 1 CPU, 0 GPU free"]),
        (Need(1, 1, 0, 8192), [node("a", CPU=8, GPU=1)], ["8.0 GiB GPU memory", "--resources='{\"vram_mib\": 81920}'"]),
        (Need(1, 0, 64 * GIB), [node("a", CPU=8, memory=8 * GIB)], ["64.0 GiB RAM", "8.0 GiB RAM"]),
        (Need(9), [node(str(n), CPU=1) for n in range(10, 16)], ["; and 2 more"]),
    ],
)
def test_what_is_pending_says_what_is_asked_and_what_there_is(need: Need, nodes: list[Node], words: list[str]) -> None:
    said = why_pending(need, nodes)
    assert all(word in said for word in words), said


def test_over_how_many_nodes() -> None:
    small = [node(name, CPU=4, GPU=2) for name in "abc"]
    assert nodes_for(Need(1, 2), small, spreads=True) == 1
    assert nodes_for(Need(1, 4), small, spreads=False) == 0
    assert nodes_for(Need(1, 4), small, spreads=True) == 2
    assert nodes_for(Need(1, 6), small, spreads=True) == 3
    # Evenly: three GPUs are one on each of three nodes, five go nowhere.
    assert nodes_for(Need(1, 3), small, spreads=True) == 3
    assert nodes_for(Need(1, 5), small, spreads=True) == 0
    assert nodes_for(Need(5, 4), small, spreads=True) == 0
    large = node("d", CPU=8, GPU=8)
    assert nodes_for(Need(1, 4), [*small, large], spreads=True) == 1
    assert nodes_for(Need(1, 4), [], spreads=True) == 0
    assert share(Need(2, 4, GIB, 4097), 2) == Need(2, 2, GIB, 2049)


def test_as_many_gpus_as_hold_it() -> None:
    nodes = [node(name, CPU=4, GPU=1, vram_mib=80_000) for name in "abc"]
    assert gpus_by_memory(70_000, nodes) == 1
    assert gpus_by_memory(150_000, nodes) == 2
    assert gpus_by_memory(240_000, nodes) == 3
    assert gpus_by_memory(250_000, nodes) == 1
    assert gpus_by_memory(150_000, [node("a", CPU=4, GPU=1)]) == 1
    vllm = spec(engine="vllm")
    asked_for = need_of(PlaceRequest("ray", vram="146GiB"), vllm)
    assert spread(asked_for, vllm, nodes) == Need(1, 2, 0, 146 * 1024)
    # What the files say, where nobody said anything; and what a person said, as it is.
    large = msgspec.structs.replace(vllm, needs=Needs(gpu=200 * GIB))
    assert spread(need_of(PlaceRequest("ray"), large), large, nodes) == Need(1, 3)
    said = msgspec.structs.replace(large, options=ModelOptions(engine="vllm", num_gpus=1))
    assert spread(need_of(PlaceRequest("ray"), said), said, nodes) == Need(1, 1)
    assert spread(Need(), spec(), nodes) == Need()
    # Another replica is like the first, whatever nodes there are now.
    assert spread(Need(1, 1), large, nodes[:1], Need(1, 3)) == Need(1, 3)


def test_what_waits_for_several_nodes_says_so() -> None:
    able = [node(name, CPU=4, GPU=1, free={"CPU": 4, "GPU": 0}) for name in ("a", "bb")]
    waits = why_pending(Need(1, 2), able, spreads=True)
    assert waits.startswith(
        "It asks for 1 CPU, 1 GPU on each of 2 nodes, and waits until they are free: a (10.0.0.1) has"
    )
    one = why_pending(Need(1, 4), [node("a", CPU=4, GPU=2), node("bb", CPU=4, GPU=1)], spreads=True)
    assert "Spread over 2 nodes it takes 1 CPU, 2 GPU on each, and 1 of the cluster's 2 has that. It starts when" in one
    few = why_pending(Need(1, 4), [node("a", CPU=4, GPU=1), node("bb", CPU=4, GPU=1)], spreads=True)
    assert "Spread over 4 nodes it takes 1 CPU, 1 GPU on each, and 2 of the cluster's 2 have that." in few


def test_the_state_of_a_placement() -> None:
    nodes = [node("a", CPU=1)]
    running = Seen("CREATED", "a", True, HostStatus("ready"))
    assert state_of(None, Need(), nodes, leaving=False) == ("starting", "")
    assert state_of(running, Need(), nodes, leaving=True) == ("stopping", "")
    # Only the registry can say that it is ready.
    assert state_of(running, Need(), nodes, leaving=False) == ("loading", "")
    assert state_of(Seen("PENDING"), Need(2), nodes, leaving=False)[0] == "pending"
    moved = state_of(Seen("RESCHEDULING"), Need(2), nodes, leaving=False)
    assert moved[0] == "pending"
    assert "is lost; it goes elsewhere" in moved[1]
    broken = Seen("CREATED", "a", True, HostStatus("failed", "No such model."))
    assert state_of(broken, Need(), nodes, leaving=False) == ("failed", "No such model.")
    silent = Seen("CREATED", "a", True, problem="Its node does not answer yet.")
    assert state_of(silent, Need(), nodes, leaving=False) == ("starting", "Its node does not answer yet.")


def test_replicas_go_where_fewest_of_them_are() -> None:
    nodes = [node("a", CPU=8), node("b", CPU=4), node("c", CPU=2, free={"CPU": 0})]
    assert best_node(Need(), nodes, {}) == "a"
    assert best_node(Need(), nodes, {"a": 1}) == "b"
    assert best_node(Need(), nodes, {"a": 1, "b": 1}) == "a"
    assert best_node(Need(6), nodes, {"a": 3}) == "a"
    assert best_node(Need(9), nodes, {}) is None


def spec(**options: object) -> LaunchSpec:
    return LaunchSpec("m", "repo/m", ("n",), ModelOptions(**options), needs=Needs(cpu=GIB))  # type: ignore[arg-type]


def test_what_one_worker_reserves() -> None:
    assert need_of(PlaceRequest("ray"), spec()) == Need(1, 0, GIB)
    assert need_of(PlaceRequest("ray", 4, "2GiB"), spec()) == Need(4, 0, 2 * GIB)
    assert need_of(PlaceRequest("ray"), spec(num_gpus=2)) == Need(1, 2)
    assert need_of(PlaceRequest("ray"), spec(device="cuda")) == Need(1, 1)
    assert need_of(PlaceRequest("ray", vram="16GiB"), spec()) == Need(1, 1, 0, 16384)
    assert need_of(PlaceRequest("ray"), spec(engine="vllm")) == Need(1, 1)
    assert need_of(PlaceRequest("ray"), spec(engine="vllm", engine_args=["-tp", "2", "-pp=2"])) == Need(1, 4)
    assert need_of(PlaceRequest("ray"), spec(engine="vllm", device="cpu")) == Need(1, 0, GIB)
    for bad in (PlaceRequest("ray", 0), PlaceRequest("ray", memory="much"), PlaceRequest("ray", vram="0GiB")):
        with pytest.raises(ApiError):
            need_of(bad, spec())


def test_what_runs_on_the_node() -> None:
    plain = arguments_of(spec(), Need())
    assert plain == ("repo/m", "--model-names", "m,n", "--device", "cpu")
    assert arguments_of(spec(num_gpus=1), Need(gpus=1)) == ("repo/m", "--model-names", "m,n")
    assert arguments_of(spec(num_gpus=2), Need(gpus=2))[-2:] == ("--num-gpus", "2")
    own = arguments_of(spec(engine="vllm", engine_args=["-tp", "4"]), Need(gpus=4))
    assert own[-3:] == ("--", "-tp", "4")
    assert "--num-gpus" not in own
    for bad, param in (
        ({"engine": "command"}, "engine"),
        ({"gpus": "0"}, "gpus"),
        ({"keep_alive": "5m"}, "keep_alive"),
    ):
        with pytest.raises(ApiError) as refused:
            arguments_of(spec(**bad), Need())
        assert refused.value.param == param


def test_where_the_cluster_is() -> None:
    assert cluster_of("ray") == "ray"
    assert cluster_of("ray://head") == "ray://head:10001"
    assert cluster_of("ray://[fe80::1]:7") == "ray://[fe80::1]:7"
    for bad in ("slurm", "ray://", "http://head", "ray://head:99999"):
        with pytest.raises(ApiError) as refused:
            cluster_of(bad)
        assert refused.value.param == "on"
    assert head_of("ray", {"RAY_ADDRESS": "h:6379"}) == "h:6379"
    assert head_of("ray", {"RAY_ADDRESS": "ray://h"}) == "ray://h:10001"
    assert head_of("ray", {}, "here:6379") == "here:6379"
    with pytest.raises(AgentError) as nowhere:
        head_of("ray", {})
    assert nowhere.value.code == "no_cluster"


def test_rays_token_is_where_ray_looks_for_it(tmp_path: Path) -> None:
    kept = tmp_path / ".ray" / "auth_token"
    with pytest.raises(AgentError) as none:
        own_token({}, tmp_path)
    assert str(kept) in none.value.message
    kept.parent.mkdir()
    kept.write_text("of the home\n")
    assert own_token({}, tmp_path) == "of the home"
    (tmp_path / "other").write_text("of the file")
    assert own_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}, tmp_path) == "of the file"
    assert own_token({"RAY_AUTH_TOKEN": "said", "RAY_AUTH_TOKEN_PATH": "/none"}, tmp_path) == "said"


def test_the_nodes_must_reach_the_daemon() -> None:
    here, far = node("a", address="10.0.0.1"), node("b", address="10.0.0.2")
    own = {"10.0.0.1", "127.0.0.1"}
    local = "http://127.0.0.1:8000"
    assert controller_url(local, "127.0.0.1", [here], own) == local
    with pytest.raises(AgentError) as refused:
        controller_url(local, "127.0.0.1", [here, far], own)
    assert "10.0.0.2" in refused.value.message
    assert "--host 0.0.0.0" in refused.value.hint
    towards = {"10.0.0.2": "10.0.0.1"}.__getitem__
    assert controller_url(local, "0.0.0.0", [here, far], own, towards) == "http://10.0.0.1:8000"
    assert controller_url("http://10.0.0.1:9", "10.0.0.1", [far], own) == "http://10.0.0.1:9"


def test_a_followed_log_prints_each_line_once() -> None:
    assert added_lines([], ["a"]) == ["a"]
    assert added_lines(["a", "b"], ["a", "b", "c"]) == ["c"]
    assert added_lines(["a", "b", "c"], ["b", "c", "d"]) == ["d"]
    assert added_lines(["a", "b"], ["x"]) == ["x"]
    assert added_lines(["a"], ["a"]) == []
