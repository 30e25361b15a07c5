"""Sleep and wake with real processes: whose control routes are asked, and what people see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.scheduler import Config
from daemon.scheduler.placement import CPU
from daemon.scheduler.sleep import RESIDUE_BYTES
from fcd.machine import Gpu
from fcd.settings import ModelSettings, Settings
from fcd.wire.admin import LoadRequest
from tests.daemon.controller.harness import Daemon, FakeSpawn, running, until
from tests.daemon.controller.test_placing import client_of

G = 2**30
GPU = "GPU-aaaa"
TOTAL = 4 * G
MODELS = {name: ModelSettings(path=path, engine="vllm") for name, path in (("one", "guide"), ("two", "guide-mini"))}
QUICK = Config(settle_s=0.1, sleep_ttl_s=60.0)


class Gpus:
    """A GPU whose memory is what the workers have claimed of it."""

    def __init__(self) -> None:
        self.daemon: Daemon | None = None

    def __call__(self) -> dict[str, int]:
        used = 0
        workers = self.daemon.controller.supervisor.state.workers.values() if self.daemon else ()
        for worker in workers:
            taken = (worker.awake or worker.claims).get(GPU, 0)
            # One that lies down has given its memory back before the daemon hears that it did.
            given = worker.turning == "sleep" or (worker.state == "asleep" and worker.turning != "wake")
            used += min(taken, RESIDUE_BYTES) if given else taken
        return {CPU: 32 * G, GPU: TOTAL - used}


def sleeping(tmp_path: Path, mode: str, body: Callable[[Daemon, Path], Any], *, config: Config = QUICK) -> None:
    async def main() -> None:
        turns = tmp_path / "turns"
        turns.touch()
        memory = Gpus()
        spawn = FakeSpawn(FAKE_MODE=mode, FAKE_TURNS=str(turns))
        settings = Settings(models=MODELS)
        async with running(tmp_path / "home", memory=memory, spawn=spawn, settings=settings, config=config) as daemon:
            memory.daemon = daemon
            daemon.controller._machine.gpus = [Gpu(0, "A card", TOTAL, TOTAL, GPU)]
            await body(daemon, turns)

    asyncio.run(main())


def state(daemon: Daemon, name: str) -> str:
    info = daemon.controller.worker(name)
    return "gone" if info is None else info.state


async def use(daemon: Daemon, model: str, keep_alive: float | None = None) -> None:
    async with asyncio.timeout(20):
        lease = await daemon.controller.supervisor.acquire(model, keep_alive=keep_alive)
    lease.release()


def words(turns: Path) -> list[str]:
    return [line.split()[1] for line in turns.read_text().splitlines()]


def test_an_idle_worker_sleeps_and_a_request_wakes_it(tmp_path: Path) -> None:
    async def body(daemon: Daemon, turns: Path) -> None:
        await daemon.controller._known("one", owner=True)
        await use(daemon, "one", keep_alive=0.2)
        await until(lambda: state(daemon, "one") == "asleep")
        pid = daemon.spawn.pids[0]
        began = time.monotonic()
        await use(daemon, "one")
        assert time.monotonic() - began < 5
        assert state(daemon, "one") == "ready"
        assert words(turns) == ["/sleep?level=1", "/wake_up"]
        assert daemon.spawn.pids == [pid], "it is the same process"
        await until(lambda: state(daemon, "one") == "asleep")
        async with client_of(daemon) as client:
            (info,) = await client.workers()
            assert info.state == "asleep"
            names = {model.name: model.state for model in await client.models()}
            assert names["one"] == "asleep"

    sleeping(tmp_path, "sleeper", body)


def test_two_models_take_turns_on_one_gpu(tmp_path: Path) -> None:
    async def body(daemon: Daemon, turns: Path) -> None:
        for name in MODELS:
            await daemon.controller._known(name, owner=True)
        await use(daemon, "one")
        flags = daemon.spawn.commands[0]
        share = float(flags[flags.index("--gpu-memory-utilization") + 1])
        assert 0 < share <= 0.98
        assert daemon.spawn.environments[0]["CUDA_VISIBLE_DEVICES"] == GPU
        claims = daemon.controller.supervisor.state.workers["one"].claims
        assert share <= claims[GPU] / TOTAL < share + 0.002
        async with client_of(daemon) as client:
            found = await client.estimate(LoadRequest("two"))
            assert (found.sleeps, found.unloads, found.gpus) == (["one"], [], 1)
            assert 0 < found.gpu_memory_utilization < 1
        await use(daemon, "two")
        assert (state(daemon, "one"), state(daemon, "two")) == ("asleep", "ready")
        await use(daemon, "one")
        assert (state(daemon, "one"), state(daemon, "two")) == ("ready", "asleep")
        assert len(daemon.spawn.pids) == 2

    sleeping(tmp_path, "sleeper", body)


def test_one_that_refuses_to_sleep_is_unloaded(tmp_path: Path) -> None:
    async def body(daemon: Daemon, turns: Path) -> None:
        await daemon.controller._known("one", owner=True)
        await use(daemon, "one", keep_alive=0.1)
        await until(lambda: state(daemon, "one") == "gone")
        assert words(turns) == ["/sleep?level=1"]

    sleeping(tmp_path, "insomniac", body)


def test_one_that_does_not_wake_is_loaded_again_for_who_waits(tmp_path: Path) -> None:
    async def body(daemon: Daemon, turns: Path) -> None:
        await daemon.controller._known("one", owner=True)
        await use(daemon, "one", keep_alive=0.1)
        await until(lambda: state(daemon, "one") == "asleep")
        await use(daemon, "one", keep_alive=100.0)
        assert len(daemon.spawn.pids) == 2
        assert state(daemon, "one") == "ready"

    sleeping(tmp_path, "oversleeper", body)


def test_after_its_time_one_that_sleeps_is_unloaded(tmp_path: Path) -> None:
    async def body(daemon: Daemon, turns: Path) -> None:
        await daemon.controller._known("one", owner=True)
        await use(daemon, "one", keep_alive=0.1)
        await until(lambda: state(daemon, "one") == "asleep")
        await until(lambda: state(daemon, "one") == "gone")

    sleeping(tmp_path, "sleeper", body, config=Config(settle_s=0.1, sleep_ttl_s=0.5))
