"""Faults of workers, seen by clients: the real daemon's code on a real port, workers that are real processes.

The workers have no model (tests/daemon/fake_worker.py): what dies, hangs and is refused is the same, and it is quick.
tests/e2e/test_fault_table.py says which test stands for which fault.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.controller.controller import config_of
from daemon.scheduler import Config
from fcd.settings import DaemonSettings, ModelSettings, Settings
from tests.daemon.controller.harness import Daemon, FakeSpawn, is_running, running, state_of, until

CHAT = "/v1/chat/completions"
QUICK = Config(backoff_base_s=0.05, backoff_max_s=0.1, stop_grace_s=2.0, settle_s=0.2)


def asks(model: str = "guide", *, stream: bool = False, **wish: object) -> dict[str, Any]:
    metadata = {name: str(value) for name, value in wish.items()}
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "metadata": metadata}


@asynccontextmanager
async def streaming(daemon: Daemon, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[str]]:
    async with daemon.http.stream("POST", CHAT, json={**body, "stream": True}, timeout=60) as answer:
        assert answer.status_code == 200
        yield answer.aiter_lines()


async def next_data(lines: AsyncIterator[str]) -> str:
    async for line in lines:
        if line.startswith("data:"):
            return line
    raise AssertionError("the stream ended")


def leases(daemon: Daemon) -> int:
    state = daemon.controller.supervisor.state
    return len(state.leases) + len(state.queued)


def test_1_a_worker_killed_mid_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, config=QUICK) as daemon:
            async with (
                streaming(daemon, asks("guide", tokens=1000, gap=0.05)) as lines,
                streaming(daemon, asks("guide-mini", tokens=12, gap=0.1)) as others,
            ):
                await next_data(lines)
                await next_data(others)
                victim = daemon.controller.supervisor.local["guide"].pid
                os.kill(victim, signal.SIGKILL)
                killed = time.monotonic()
                rest = [line async for line in lines if line]
                assert time.monotonic() - killed < 1.0
                assert rest[-2] == "event: error"
                assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "worker_died"
                assert "data: [DONE]" not in rest
                assert [line async for line in others if line][-1] == "data: [DONE]", "other models are undisturbed"
            await until(lambda: state_of(daemon) == "ready", what="it was started again")
            assert leases(daemon) == 0
            assert (await daemon.http.post(CHAT, json=asks())).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("replicas", [1, 2])
def test_2_a_worker_killed_before_its_first_byte(tmp_path: Path, replicas: int) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide", replicas=replicas)})
        slow = Config(backoff_base_s=60.0)
        async with running(tmp_path, settings=settings, config=slow) as daemon:
            (await daemon.controller.acquire("mine")).release()
            names = ["mine", "mine-2"][:replicas]
            await until(lambda: [state_of(daemon, name) for name in names] == ["ready"] * replicas)
            once, twice = tmp_path / "once", tmp_path / "twice"
            answer = await daemon.http.post(CHAT, json=asks("mine", die="before", unless=once), timeout=30)
            assert answer.status_code == 200, "a replica, or the same one started again, answers"
            assert once.exists()
            if replicas == 1:
                # The first death in a row is forgiven at once, the second is not.
                twice.touch()
                spawn_fails(daemon)
                os.kill(daemon.controller.supervisor.local["mine"].pid, signal.SIGKILL)
                answer = await daemon.http.post(CHAT, json=asks("mine"), timeout=30)
                assert answer.status_code in (502, 503)
                assert answer.json()["error"]["code"] in ("worker_died", "model_failed")
            assert leases(daemon) == 0

    asyncio.run(main())


def spawn_fails(daemon: Daemon) -> None:
    daemon.spawn.environment["FAKE_MODE"] = "crash"


@pytest.mark.parametrize("stream", [False, True])
def test_3_a_worker_that_hangs_with_its_socket_open(tmp_path: Path, stream: bool) -> None:
    async def main() -> None:
        settings = Settings(daemon=DaemonSettings(first_byte_s=0.6, stall_s=0.6))
        config = config_of(settings.daemon, QUICK)
        async with running(tmp_path, settings=settings, config=config) as daemon:
            (await daemon.controller.acquire("guide")).release()
            victim = daemon.controller.supervisor.local["guide"].pid
            if stream:
                async with streaming(daemon, asks(tokens=1000, gap=0.05)) as lines:
                    await next_data(lines)
                    os.kill(victim, signal.SIGSTOP)
                    rest = [line async for line in lines if line]
                error = json.loads(rest[-1].removeprefix("data: "))["error"]
            else:
                os.kill(victim, signal.SIGSTOP)
                answer = await daemon.http.post(CHAT, json=asks(), timeout=30)
                assert answer.status_code == 504
                error = answer.json()["error"]
            assert error["code"] == "worker_timeout"
            assert ("daemon.stall_s" if stream else "daemon.first_byte_s") in error["message"]
            await until(lambda: not is_running(victim), what="it was killed")
            await until(lambda: state_of(daemon) == "ready", what="it was started again")
            assert (await daemon.http.post(CHAT, json=asks())).status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("helps", [True, False])
def test_6_a_load_that_runs_out_of_memory(tmp_path: Path, helps: bool) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        spawn = FakeSpawn(FAKE_GO=str(go))
        free = {"cpu": 8 * 2**30}
        async with running(tmp_path, memory=lambda: free, config=QUICK, spawn=spawn) as daemon:
            assert (await daemon.http.post(CHAT, json=asks("guide-mini"))).status_code == 200
            spawn.environment["FAKE_MODE"] = "out_of_memory"
            asking = asyncio.create_task(daemon.http.post(CHAT, json=asks("guide"), timeout=30))
            await until(lambda: state_of(daemon, "guide-mini") == "gone", what="the idle one makes room")
            if helps:
                go.touch()
            answer = await asking
            assert len(spawn.pids) == 3, "tried once more, and not twice"
            if helps:
                assert answer.status_code == 200
            else:
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (503, "out_of_memory")
                assert "of RAM (8.0 GiB free)" in error["message"]
            assert (await daemon.http.get("/health")).status_code == 200

    asyncio.run(main())


def test_8_a_worker_that_dies_again_and_again(tmp_path: Path) -> None:
    async def main() -> None:
        spawn = FakeSpawn(FAKE_MODE="crash")
        async with running(tmp_path, config=QUICK, spawn=spawn) as daemon:
            first = await daemon.http.post(CHAT, json=asks())
            assert first.status_code == 503
            await until(lambda: state_of(daemon) == "failed")
            began = time.monotonic()
            answer = await daemon.http.post(CHAT, json=asks())
            assert time.monotonic() - began < 0.5
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "model_failed")
            assert "the fake crashes" in error["message"]
            (worker,) = daemon.controller.workers()
            assert worker.log in error["message"]
            assert (worker.state, worker.restarts) == ("failed", 5)
            spawn.environment["FAKE_MODE"] = ""
            done = await daemon.http.post("/api/workers/guide/restart", headers=daemon.admin)
            assert done.status_code == 200
            assert (await daemon.http.post(CHAT, json=asks())).status_code == 200
            assert len(list((tmp_path / "state/logs/workers").glob("guide-*.log"))) == 5, "one a start, five kept"

    asyncio.run(main())


def test_9_two_models_race_for_room_for_one(tmp_path: Path) -> None:
    async def main() -> None:
        daemons: list[Daemon] = []

        def memory() -> dict[str, int]:
            there = daemons[0].controller.supervisor.local.values() if daemons else []
            taken = sum(worker.process is not None for worker in there)
            return {"cpu": (600 - 450 * taken) * 2**20}

        async with running(tmp_path, memory=memory, config=QUICK) as daemon:
            daemons.append(daemon)
            bodies = [asks(name, first=0.1) for name in ["guide", "guide-mini"] * 4]
            tasks = [asyncio.create_task(daemon.http.post(CHAT, json=body, timeout=60)) for body in bodies]
            most = 0
            while not all(task.done() for task in tasks):
                most = max(most, sum(is_running(pid) for pid in daemon.spawn.pids))
                await asyncio.sleep(0.01)
            assert [task.result().status_code for task in tasks] == [200] * len(bodies)
            assert most == 1
            assert len(daemon.spawn.pids) == 2, "each model was loaded once, for all who asked"

    asyncio.run(main())


def test_10_time_is_up_during_a_long_answer_and_as_a_request_arrives(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(models={"mine": ModelSettings(path="guide", keep_alive="100ms")})
        async with running(tmp_path, settings=settings) as daemon:
            async with streaming(daemon, asks("mine", tokens=10, gap=0.1)) as lines:
                assert [line async for line in lines if line][-1] == "data: [DONE]"
            for pause in (0.05, 0.09, 0.1, 0.11, 0.15, 0.3):
                await asyncio.sleep(pause)
                answer = await daemon.http.post(CHAT, json=asks("mine"), timeout=30)
                assert answer.status_code == 200, (pause, answer.text)

    asyncio.run(main())


async def leave_after(daemon: Daemon, body: bytes, wait_for: bytes, hold: asyncio.Event | None = None) -> None:
    """Send a request over a bare socket, wait for some bytes, then hang up without a word."""
    host, port = daemon.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        if wait_for:
            await reader.readuntil(wait_for)
        if hold is not None:
            await hold.wait()
    finally:
        writer.transport.abort()


def test_11_a_thousand_clients_that_leave_while_queued_loading_and_streaming(tmp_path: Path) -> None:
    async def main() -> None:
        go = tmp_path / "go"
        settings = Settings(daemon=DaemonSettings(max_queue=2000))
        spawn = FakeSpawn(FAKE_MODE="slow", FAKE_GO=str(go), FAKE_PARALLEL="32")
        config = config_of(settings.daemon)
        async with running(tmp_path, settings=settings, config=config, spawn=spawn) as daemon:
            supervisor = daemon.controller.supervisor
            body = json.dumps(asks(stream=True, tokens=10_000, gap=0.01)).encode()
            leave = asyncio.Event()
            loading = [asyncio.create_task(leave_after(daemon, body, b"", leave)) for _ in range(400)]
            await until(lambda: len(supervisor.state.queued) == 400, what="all wait for the load")
            leave.set()
            await asyncio.gather(*loading)
            await until(lambda: not supervisor.state.queued, what="no place is kept for those who left")
            go.touch()
            await until(lambda: state_of(daemon) == "ready")
            for _ in range(4):
                # 64 at a time stream and the others queue; all of them leave.
                leave = asyncio.Event()
                clients = [asyncio.create_task(leave_after(daemon, body, b"", leave)) for _ in range(150)]
                await until(lambda: len(supervisor.state.leases) == 64 and len(supervisor.state.queued) == 86)
                leave.set()
                await asyncio.gather(*clients)
                await until(lambda: leases(daemon) == 0, what="slots are back")
            counts = (await (await worker_client(daemon)).get("/counts")).json()
            assert counts["running"] == 0
            assert counts["left"] >= 4 * 64, "each of those who left ended its answer"
            assert not supervisor._waiters
            assert not daemon.controller._context.active
            assert len(spawn.pids) == 1
            assert (await daemon.http.post(CHAT, json=asks(), timeout=30)).status_code == 200

    asyncio.run(main())


async def worker_client(daemon: Daemon, name: str = "guide") -> Any:
    import httpx2 as httpx

    record = daemon.controller.registry.get(name)
    assert record is not None
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{record.target.port}", trust_env=False, timeout=10)


@pytest.mark.slow
def test_12_first_token_and_gap_slower_than_a_minute(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            (await daemon.controller.acquire("guide")).release()

            async def lines_of(**wish: object) -> list[str]:
                async with daemon.http.stream("POST", CHAT, json=asks(stream=True, **wish), timeout=120) as answer:
                    assert answer.status_code == 200
                    return [line async for line in answer.aiter_lines() if line]

            whole = daemon.http.post(CHAT, json=asks(first=62), timeout=120)
            first, gap, answer = await asyncio.gather(lines_of(first=62), lines_of(tokens=2, gap=61), whole)
            for lines in (first, gap):
                assert lines[-1] == "data: [DONE]"
                assert lines.count(": waiting") >= 5, "a comment about every ten seconds"
            assert answer.status_code == 200

    asyncio.run(main())


@pytest.mark.parametrize("loaded", [True, False])
def test_13_a_full_queue(tmp_path: Path, loaded: bool) -> None:
    async def main() -> None:
        settings = Settings(daemon=DaemonSettings(max_queue=3))
        go = tmp_path / "go"
        spawn = FakeSpawn(FAKE_PARALLEL="1", FAKE_MODE="slow", FAKE_GO=str(go))
        config = config_of(settings.daemon)
        async with running(tmp_path, settings=settings, config=config, spawn=spawn) as daemon:
            supervisor = daemon.controller.supervisor
            held = []
            if loaded:
                go.touch()
                held = [await daemon.controller.acquire("guide") for _ in range(2)]
            waiting = [asyncio.create_task(daemon.http.post(CHAT, json=asks(), timeout=60)) for _ in range(3)]
            await until(lambda: len(supervisor.state.queued) == 3)
            answer = await daemon.http.post(CHAT, json=asks())
            error = answer.json()["error"]
            assert (answer.status_code, error["type"]) == (429, "rate_limit_error")
            assert int(answer.headers["retry-after"]) >= 1
            go.touch()
            for lease in held:
                lease.release()
            assert [(await task).status_code for task in waiting] == [200] * 3

    asyncio.run(main())


def test_16_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            store = daemon.controller._context.store
            pages = await store.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
            await store.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
            statuses = set()
            for number in range(200):
                answer = await daemon.http.post("/api/keys", json={"name": f"{number:090}"}, headers=daemon.admin)
                statuses.add(answer.status_code)
                if answer.status_code != 200:
                    break
            assert statuses == {200, 507}
            assert answer.json()["error"]["code"] == "disk_full"
            await store.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages + 100}").fetchone())
            answer = await daemon.http.post("/api/keys", json={"name": "again"}, headers=daemon.admin)
            assert answer.status_code == 200

    asyncio.run(main())
