"""Workers that the daemon starts: real processes, killed, stopped and hung."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from daemon.controller.controller import config_of
from daemon.scheduler import Config
from fcd.errors import ApiError
from fcd.settings import DaemonSettings, ModelSettings, Settings
from tests.daemon.controller.harness import FakeSpawn, is_running, running, state_of, until

QUICK = Config(backoff_base_s=0.05, backoff_max_s=0.1, stop_grace_s=2.0, settle_s=0.2)


def test_many_callers_cause_one_load(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, spawn=FakeSpawn(FAKE_PARALLEL="32")) as daemon:
            leases = await asyncio.gather(*(daemon.controller.acquire("guide") for _ in range(20)))
            assert len(daemon.spawn.pids) == 1
            assert {lease.target.worker for lease in leases} == {"guide"}
            assert Path(leases[0].target.socket).is_socket()
            for lease in leases:
                lease.release()
                lease.release()
            assert not daemon.controller.supervisor.state.leases
            assert state_of(daemon) == "ready"

    asyncio.run(main())


def test_the_command_is_what_a_person_would_type_and_holds_no_secret(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            (await daemon.controller.acquire("guide@8bit")).release()
            command, environment = daemon.spawn.commands[0], daemon.spawn.environments[0]
            assert command[command.index("fcd") :][:4] == ["fcd", "worker", "run", "guide"]
            flags = dict(pairwise(command))
            assert flags["--controller"] == daemon.url
            assert flags["--worker-id"] == flags["--model-names"] == "guide@8bit"
            assert "--load-8bit" in command
            token = environment["FCD_JOIN_TOKEN"]
            assert token
            assert token not in " ".join(command)
            assert environment["FCD_PARENT_WATCH"] == "1"

    asyncio.run(main())


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, config=QUICK) as daemon:
            lease = await daemon.controller.acquire("guide")
            os.kill(daemon.spawn.pids[0], signal.SIGKILL)
            lease.release(failed=True, reason="connection reset")
            again = await daemon.controller.acquire("guide", exclude=["guide"])
            assert len(daemon.spawn.pids) == 2
            assert again.target.socket != lease.target.socket
            assert not Path(lease.target.socket).exists()
            again.release()
            (worker,) = daemon.controller.workers()
            assert (worker.state, worker.restarts, worker.pid) == ("ready", 1, daemon.spawn.pids[1])

    asyncio.run(main())


def test_a_hung_worker_is_killed_and_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, config=QUICK) as daemon:
            (await daemon.controller.acquire("guide")).release()
            os.kill(daemon.spawn.pids[0], signal.SIGSTOP)
            await until(lambda: len(daemon.spawn.pids) == 2, what="a second start")
            (await daemon.controller.acquire("guide")).release()
            assert not is_running(daemon.spawn.pids[0])

    asyncio.run(main())


def test_five_deaths_fail_fast_until_restarted(tmp_path: Path) -> None:
    async def main() -> None:
        spawn = FakeSpawn(FAKE_MODE="crash")
        async with running(tmp_path, config=QUICK, spawn=spawn) as daemon:
            with pytest.raises(ApiError):
                await daemon.controller.acquire("guide")
            await until(lambda: state_of(daemon) == "failed", what="failed")
            assert len(spawn.pids) == 5
            with pytest.raises(ApiError, match="the fake crashes") as failure:
                await daemon.controller.acquire("guide")
            assert failure.value.status == 503
            assert "fcd worker restart guide" in failure.value.message
            assert await daemon.controller.log_lines("guide", 10) == ["the fake crashes"]
            assert len(list((tmp_path / "state/logs/workers").iterdir())) == 5
            spawn.environment["FAKE_MODE"] = ""
            await daemon.controller.restart("guide")
            (await daemon.controller.acquire("guide")).release()

    asyncio.run(main())


def test_a_worker_that_says_why_is_quoted(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, spawn=FakeSpawn(FAKE_MODE="error")) as daemon:
            with pytest.raises(ApiError, match=r"The fake cannot load this\."):
                await daemon.controller.acquire("guide")
            assert len(daemon.spawn.pids) == 1

    asyncio.run(main())


def test_a_load_without_progress_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        config = Config(load_stall_s=0.6, backoff_base_s=60.0)
        async with running(tmp_path, config=config, spawn=FakeSpawn(FAKE_MODE="no_register")) as daemon:
            with pytest.raises(ApiError, match="no progress"):
                await daemon.controller.acquire("guide")
            assert not any(is_running(pid) for pid in daemon.spawn.pids)

    asyncio.run(main())


def test_a_slow_load_that_moves_is_not_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        spawn = FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(go))
        async with running(tmp_path, config=Config(load_stall_s=0.6), spawn=spawn) as daemon:
            waiting = asyncio.create_task(daemon.controller.acquire("guide"))
            await asyncio.sleep(1.5)
            assert not waiting.done()
            go.touch()
            (await waiting).release()
            assert len(spawn.pids) == 1

    asyncio.run(main())


def test_a_grandchild_goes_with_the_worker(tmp_path: Path) -> None:
    async def main() -> None:
        pids = tmp_path / "grandchild"
        spawn = FakeSpawn(FAKE_MODE="grandchild", FAKE_PIDS=str(pids))
        async with running(tmp_path, config=QUICK, spawn=spawn) as daemon:
            (await daemon.controller.acquire("guide")).release()
            stopped, crashed = int(pids.read_text()), 0
            assert is_running(stopped)
            await daemon.controller.unload("guide")
            await until(lambda: state_of(daemon) == "gone")
            await until(lambda: not is_running(stopped), within=3)
            (await daemon.controller.acquire("guide")).release()
            crashed = int(pids.read_text())
            os.kill(spawn.pids[-1], signal.SIGKILL)
            await until(lambda: not is_running(crashed), within=3)
            (await daemon.controller.acquire("guide")).release()
        assert not is_running(int(pids.read_text()))

    asyncio.run(main())


def test_close_ends_a_worker_that_ignores_sigterm(tmp_path: Path) -> None:
    async def main() -> None:
        config = Config(stop_grace_s=0.3)
        async with running(tmp_path, config=config, spawn=FakeSpawn(FAKE_MODE="ignore_term")) as daemon:
            (await daemon.controller.acquire("guide")).release()
        assert not is_running(daemon.spawn.pids[0])

    asyncio.run(main())


def test_close_while_loading_and_waiting(tmp_path: Path) -> None:
    async def main() -> None:
        spawn = FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(tmp_path / "never"))
        async with running(tmp_path, spawn=spawn) as daemon:
            waiting = asyncio.create_task(daemon.controller.acquire("guide"))
            await until(lambda: state_of(daemon) == "loading")
            await daemon.controller.close()
            with pytest.raises(ApiError) as failure:
                await waiting
            assert (failure.value.status, failure.value.code) == (503, "shutting_down")
            assert daemon.controller.not_ready()

    asyncio.run(main())


def test_clients_that_leave_while_loading_queued_or_granted_leave_no_trace(tmp_path: Path) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        settings = Settings(daemon=DaemonSettings(max_queue=2000))
        spawn = FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(go), FAKE_PARALLEL="2")
        config = config_of(settings.daemon)
        async with running(tmp_path, spawn=spawn, settings=settings, config=config) as daemon:
            waiting = [asyncio.create_task(daemon.controller.acquire("guide")) for _ in range(1000)]
            await until(lambda: state_of(daemon) == "loading")
            for task in waiting[:500]:
                task.cancel()
            go.touch()
            await until(lambda: any(task.done() and not task.cancelled() for task in waiting))
            for task in waiting[500:]:
                task.cancel()
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result.release()
            state = daemon.controller.supervisor.state
            assert not state.leases
            assert not state.queued
            assert not state.workers["guide"].leases
            assert not daemon.controller.supervisor._waiters
            lease = await daemon.controller.acquire("guide")
            lease.release()
            assert len(spawn.pids) == 1

    asyncio.run(main())


def test_an_idle_worker_leaves_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide", keep_alive="300ms")})
        async with running(tmp_path, settings=settings) as daemon:
            lease = await daemon.controller.acquire("mine")
            await asyncio.sleep(0.8)
            assert state_of(daemon, "mine") == "ready", "never while it is used"
            lease.release()
            await until(lambda: state_of(daemon, "mine") == "gone", within=5)
            (await daemon.controller.acquire("mine")).release()
            assert len(daemon.spawn.pids) == 2

    asyncio.run(main())


def test_eviction_by_memory_spares_the_busy(tmp_path: Path) -> None:
    async def main() -> None:
        free = {"cpu": 10 * 2**30}
        async with running(tmp_path, memory=lambda: free, config=QUICK) as daemon:
            busy = await daemon.controller.acquire("guide")
            (await daemon.controller.acquire("guide-mini")).release()
            needs = {name: model.needs.cpu for name, model in daemon.controller.supervisor.state.models.items()}
            asked = await daemon.controller.catalog.find("guide@8bit", owner=True)
            free["cpu"] = asked.needs.cpu - needs["guide-mini"]
            daemon.controller.supervisor.read_memory(force=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await daemon.controller.acquire("guide@8bit")
            assert state_of(daemon, "guide") == "ready"
            await until(lambda: state_of(daemon, "guide-mini") == "gone")
            busy.release()

    asyncio.run(main())


def test_preloaded_models_start_with_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide-mini", preload=True)})
        async with running(tmp_path, settings=settings) as daemon:
            await until(lambda: state_of(daemon, "mine") == "ready")

    asyncio.run(main())
