"""GPUs that a probe reports: what workers are given, what an estimate says, replicas, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.gateway.prefixes import prefixes_of
from daemon.scheduler import Config
from daemon.supervisor.launch import Place, placed, worker_environment
from daemon.supervisor.memory import MachineMemory
from fcd.client import Address, Client
from fcd.errors import ApiError
from fcd.machine import read_gpus, visible
from fcd.settings import DaemonSettings, ModelSettings, Settings
from fcd.wire.admin import LoadRequest, ModelOptions
from tests.daemon.controller.harness import Daemon, FakeSpawn, running, state_of, until

G = 2**30
SMI = """0, NVIDIA H100 80GB HBM3, 81559, 80994, GPU-4f7d6a21-aaaa
1, NVIDIA H100 80GB HBM3, 81559, 1200, GPU-90b1c2d3-bbbb
[N/A], broken, 1, 2, x
"""
FREE = {"cpu": 32 * G, "GPU-a": 2 * G, "GPU-b": 8 * G}


def launched(daemon: Daemon, number: int = 0) -> tuple[Mapping[str, str], dict[str, str]]:
    """The environment and the flags of a start."""
    return daemon.spawn.environments[number], dict(pairwise(daemon.spawn.commands[number]))


def client_of(daemon: Daemon) -> Client:
    return Client(Address(daemon.url, daemon.admin["Authorization"].removeprefix("Bearer ")))


def test_the_tool_s_output_is_read_and_cuda_visible_devices_kept() -> None:
    cards = read_gpus(SMI)
    assert [(card.number, card.free_bytes // 2**20, card.uuid) for card in cards] == [
        (0, 80994, "GPU-4f7d6a21-aaaa"), (1, 1200, "GPU-90b1c2d3-bbbb"),
    ]  # fmt: skip
    assert visible(cards, None) == cards
    assert [card.uuid for card in visible(cards, "1")] == ["GPU-90b1c2d3-bbbb"]
    assert [(card.number, card.uuid) for card in visible(cards, "GPU-90b1,0")] == [
        (0, "GPU-90b1c2d3-bbbb"), (1, "GPU-4f7d6a21-aaaa"),
    ]  # fmt: skip
    assert visible(cards, "") == visible(cards, "-1") == []
    assert len(visible(cards, "0,7,1")) == 1

    async def main() -> None:
        answers = [cards, []]
        memory = MachineMemory(lambda: answers.pop(0))
        await memory.refresh()
        await memory.refresh()
        assert dict(memory())["GPU-90b1c2d3-bbbb"] == 1200 * 2**20, "a probe that fails once loses no GPU"

    asyncio.run(main())


def test_a_worker_is_given_its_gpu_by_uuid(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, memory=lambda: FREE) as daemon:
            (await daemon.controller.acquire("guide")).release()
            environment, flags = launched(daemon)
            assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-b"
            assert not {"--device", "--gpus", "--num-gpus"} & set(flags)
            (worker,) = daemon.controller.workers()
            assert worker.gpus == [1]

    asyncio.run(main())


def test_pins_of_the_configuration_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        models = {
            "first": ModelSettings(path="guide", gpus="0"),
            "both": ModelSettings(path="guide", num_gpus=2),
            "ram": ModelSettings(path="guide", device="cpu"),
            "nowhere": ModelSettings(path="guide", gpus="5"),
        }
        async with running(tmp_path, memory=lambda: FREE, settings=Settings(models=models)) as daemon:
            for name in ("first", "both", "ram"):
                (await daemon.controller.acquire(name)).release()
            found = [launched(daemon, number) for number in range(3)]
            assert [environment["CUDA_VISIBLE_DEVICES"] for environment, _ in found] == ["GPU-a", "GPU-a,GPU-b", ""]
            assert "--gpus" not in found[0][1]
            assert found[1][1]["--num-gpus"] == "2"
            assert found[2][1]["--device"] == "cpu"
            with pytest.raises(ApiError, match="pinned to GPU 5, and this machine has 2") as refusal:
                await daemon.controller.acquire("nowhere")
            assert (refusal.value.status, refusal.value.code) == (503, "out_of_memory")

    asyncio.run(main())


def test_what_fits_no_gpu_goes_to_ram_and_what_fits_nowhere_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        free = {"cpu": 32 * G, "GPU-a": 2**20}
        async with running(tmp_path, memory=lambda: free) as daemon:
            (await daemon.controller.acquire("guide")).release()
            environment, flags = launched(daemon)
            assert (environment["CUDA_VISIBLE_DEVICES"], flags["--device"]) == ("", "cpu")
            free["cpu"] = 2**20
            daemon.controller.supervisor.state.workers["guide"].claims = {"cpu": 1}
            daemon.controller.supervisor.read_memory(force=True)
            with pytest.raises(ApiError, match=r"GiB of RAM \(0\.0 GiB free\)"):
                await daemon.controller.acquire("guide-mini")

    asyncio.run(main())


def test_placed_options_count_from_zero() -> None:
    options = ModelOptions(device="cuda:3", gpus="2,3", num_gpus=2, max_gpu_memory="8GiB")
    assert placed(options, Place(("x", "y"))) == ModelOptions(device="cuda", num_gpus=2, max_gpu_memory="8GiB")
    assert placed(options, Place(in_ram=True)) == ModelOptions(device="cpu")
    assert placed(options, Place()) == options
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment("t", {}, place=Place())


def test_an_estimate_says_where_it_would_go_and_loads_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, memory=lambda: FREE) as daemon, client_of(daemon) as client:
            found = await client.estimate(LoadRequest("guide"))
            assert found.known
            assert found.fits
            assert [share.name for share in found.devices] == ["GPU 1"]
            assert found.devices[0].bytes == found.needed_bytes > found.weights_bytes > 0
            assert not daemon.spawn.pids
            (await daemon.controller.acquire("guide")).release()
            assert (await client.estimate(LoadRequest("guide"))).loaded
            huge = await client.estimate(LoadRequest("guide-mini", ModelOptions(gpus="1", max_gpu_memory="1MiB")))
            assert not huge.fits
            assert "at most 0.0 GiB of each" in huge.reason
            assert not (await client.estimate(LoadRequest("owner/not-here"))).known

    asyncio.run(main())


def test_an_estimate_names_who_would_leave(tmp_path: Path) -> None:
    async def main() -> None:
        free = {"cpu": 32 * G}
        async with running(tmp_path, memory=lambda: free) as daemon, client_of(daemon) as client:
            (await daemon.controller.acquire("guide")).release()
            free["cpu"] = 2**20
            found = await client.estimate(LoadRequest("guide-mini"))
            assert (found.fits, found.unloads) == (True, ["guide"])
            assert state_of(daemon) == "ready"

    asyncio.run(main())


def test_replicas_are_started_shared_and_ended(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide", replicas=2)})
        async with running(tmp_path, settings=settings, spawn=FakeSpawn(FAKE_PARALLEL="1")) as daemon:
            (await daemon.controller.acquire("mine")).release()
            await until(lambda: state_of(daemon, "mine-2") == "ready")
            leases = [await daemon.controller.acquire("mine") for _ in range(4)]
            assert sorted(lease.target.worker for lease in leases) == ["mine", "mine", "mine-2", "mine-2"]
            for lease in leases:
                lease.release()
            async with client_of(daemon) as client:
                await client.start_worker(LoadRequest("mine", replicas=3))
                await until(lambda: state_of(daemon, "mine-3") == "ready")
                with pytest.raises(ApiError) as refusal:
                    await client.start_worker(LoadRequest("mine", replicas=1000))
                assert refusal.value.param == "replicas"
                await client.start_worker(LoadRequest("mine", replicas=1))
                await until(lambda: len(daemon.controller.workers()) == 1)
                await client.unload("mine")
                await until(lambda: not daemon.controller.workers())

    asyncio.run(main())


def test_a_replica_serves_when_another_died_before_its_first_byte(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide", replicas=2)})
        async with running(tmp_path, settings=settings, config=Config(backoff_base_s=60.0)) as daemon:
            (await daemon.controller.acquire("mine")).release()
            await until(lambda: state_of(daemon, "mine-2") == "ready")
            first = await daemon.controller.acquire("mine")
            first.release(failed=True, reason="connection refused")
            async with asyncio.timeout(1):
                second = await daemon.controller.acquire("mine", exclude=[first.target.worker])
            assert second.target.worker != first.target.worker
            second.release()

    asyncio.run(main())


def test_chats_return_to_the_replica_that_holds_them(tmp_path: Path) -> None:
    async def main() -> None:
        daemon_settings = DaemonSettings(dispatch="prefix_affinity")
        settings = Settings(daemon=daemon_settings, models={"mine": ModelSettings(path="guide", replicas=3)})
        async with running(tmp_path, settings=settings) as daemon:
            (await daemon.controller.acquire("mine")).release()
            await until(lambda: state_of(daemon, "mine-2") == state_of(daemon, "mine-3") == "ready")
            homes: dict[str, str] = {}
            talks: dict[str, list[Any]] = {word: [{"role": "user", "content": word}] for word in "abcdef"}
            for turn in range(3):
                for word, messages in talks.items():
                    lease = await daemon.controller.acquire("mine", prefixes=partial(hashes, messages))
                    assert homes.setdefault(word, lease.target.worker) == lease.target.worker, (turn, word)
                    lease.release()
                    messages += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": "More."}]
                    held = await daemon.controller.acquire("mine")
                    held.release()

    asyncio.run(main())


def hashes(messages: list[Any]) -> tuple[int, ...]:
    return prefixes_of(msgspec.json.encode({"model": "mine", "messages": messages}))
