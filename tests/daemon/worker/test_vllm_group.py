"""How a vLLM over several nodes is started on each."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest

from daemon.worker.report import Reporter
from daemon.worker.vllm.arguments import check_passed_on, make_plan
from daemon.worker.vllm.families import ModelFiles
from daemon.worker.vllm.follower import FollowerProgram
from daemon.worker.vllm.group import (
    PART_VARIABLE,
    Follow,
    Part,
    follower_argv,
    parallel_flags,
    part_environment,
    read_part,
)
from daemon.worker.vllm.hardware import Hardware
from fcd.engines import EngineInfo
from fcd.errors import ModelLoadError, UsageError
from fcd.machine import Gpu
from fcd.wire.admin import ModelOptions

GIB = 2**30
H100 = Hardware((Gpu(0, "NVIDIA H100", 80 * GIB, 79 * GIB, "GPU-1"),), 9.0)
LEADER = Part(nodes=2, rank=0, host="10.0.0.2", master="10.0.0.2", port=29600)


def test_the_nodes_of_one_vllm_are_started_alike() -> None:
    found = make_plan(
        ModelOptions(num_gpus=4, max_model_len=512, engine_args=["--seed", "1"]),
        ModelFiles(),
        H100,
        folder=Path("/m"),
        names=["m", "other"],
        nodes=2,
    )
    first = found.argv(("vllm",), "/run/x.sock", LEADER)
    place = "--nnodes 2 --node-rank 0 --master-addr 10.0.0.2 --master-port 29600 --distributed-executor-backend mp"
    assert " ".join(first).startswith(f"vllm serve /m --served-model-name m other --uds /run/x.sock {place} ")
    assert "--tensor-parallel-size 2 --pipeline-parallel-size 2" in " ".join(first)
    assert first[-2:] == ["--seed", "1"]
    assert not found.sleeps

    part = Part(nodes=2, rank=1, host="10.0.0.3", master="10.0.0.2", port=29600, words=tuple(found.words()))
    second = follower_argv(("python", "-m", "vllm"), "/its/own", part)
    place = place.replace("--node-rank 0", "--node-rank 1")
    assert " ".join(second).startswith(f"python -m vllm serve /its/own --headless {place} --served-model-name m other ")
    assert "--uds" not in second
    assert second[second.index("--served-model-name") :] == found.words()


def test_how_a_model_is_cut_over_nodes() -> None:
    assert parallel_flags(1, 1, ()) == []
    assert parallel_flags(4, 1, ()) == ["--tensor-parallel-size", "4"]
    assert parallel_flags(2, 2, ()) == ["--pipeline-parallel-size", "2"]
    assert parallel_flags(8, 2, ()) == ["--tensor-parallel-size", "4", "--pipeline-parallel-size", "2"]
    # A person's own cut stays.
    for own in (["--tensor_parallel_size=8"], ["-tp", "8"], ["-pp=2"]):
        assert parallel_flags(8, 2, own) == []
    assert parallel_flags(4, 1, ["-pp", "2"]) == ["--tensor-parallel-size", "4"]


def test_each_node_says_where_it_is_reached() -> None:
    there = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.2", "fe80::1"]}
    assert part_environment(LEADER, {}, there) == {
        "VLLM_HOST_IP": "10.0.0.2",
        "GLOO_SOCKET_IFNAME": "eth0",
        "NCCL_SOCKET_IFNAME": "=eth0",
    }
    assert part_environment(LEADER, {"NCCL_SOCKET_IFNAME": "ib0", "VLLM_HOST_IP": "10.1.0.2"}, there) == {
        "GLOO_SOCKET_IFNAME": "eth0"
    }
    assert part_environment(LEADER, {}, {"lo": ["127.0.0.1"]}) == {"VLLM_HOST_IP": "10.0.0.2"}
    assert read_part({}) is None
    assert read_part({PART_VARIABLE: '{"nodes": 2, "host": "h", "master": "h"}'}) == Part(nodes=2, host="h", master="h")


@pytest.mark.parametrize("word", ["--nnodes", "-n", "--node_rank=1", "-r=1", "--master-port"])
def test_where_a_node_stands_is_not_a_persons_to_say(word: str) -> None:
    with pytest.raises(UsageError, match="set by fcd"):
        check_passed_on([word])


def test_nodes_with_different_vllms_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        program = FollowerProgram(
            Part(nodes=2, rank=1, host="10.0.0.3", master="10.0.0.2"),
            locate=lambda progress: tmp_path,
            engine=lambda: EngineInfo("vllm", "0.25.1", runnable=True, command=("/bin/false",)),
            env={},
            reporter=Reporter(events=None, stderr=io.StringIO()),
        )
        program._tell(Follow(29600, ("--served-model-name", "m"), "0.26.0"))
        with pytest.raises(ModelLoadError) as refused:
            await program._follow()
        assert "This node has vLLM 0.25.1, and the first one 0.26.0." in str(refused.value)
        assert "--version 0.26.0" in refused.value.hint

    asyncio.run(main())
