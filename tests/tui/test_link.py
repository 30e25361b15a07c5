from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fcd.client import Address
from fcd.errors import FcdError
from tests.tui.fake import FakeDaemon
from tui.link import Link


async def until(condition: Callable[[], object]) -> None:
    for _ in range(6000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not in time")


async def quick(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


def run(scene: Callable[[], object]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_failed_start_is_said_until_it_works() -> None:
    async def scene() -> None:
        daemon = FakeDaemon()
        daemon.up = False
        calls: list[str] = []

        async def ensure(say: Callable[[str], None]) -> Address:
            calls.append("start")
            if len(calls) == 1:
                raise FcdError("Port 8000 is taken by nginx (pid 7).")
            daemon.up = True
            return Address("http://127.0.0.1:8000")

        link = Link(daemon.client, ensure, lambda: None, sleep=quick)
        task = asyncio.create_task(link.run())
        await until(lambda: link.state == "gone")
        await asyncio.sleep(0.05)
        assert link.detail == "Port 8000 is taken by nginx (pid 7)."
        assert calls == ["start"], "it is not started again without being asked"
        with pytest.raises(FcdError, match="nginx"):
            link.connected()
        link.request_start()
        await until(lambda: link.state == "up")
        task.cancel()

    run(scene)


@pytest.mark.parametrize("asked_when", ["starting", "up"])
def test_a_daemon_that_was_stopped_stays_so_whatever_was_asked_while_it_was_there(asked_when: str) -> None:
    async def scene() -> None:
        daemon = FakeDaemon()
        calls: list[str] = []

        async def ensure(say: Callable[[str], None]) -> Address:
            calls.append("start")
            if asked_when == "starting":
                link.request_start()
            return Address("http://127.0.0.1:8000")

        link = Link(daemon.client, ensure, lambda: None, sleep=quick)
        task = asyncio.create_task(link.run())
        await until(lambda: link.state == "up")
        if asked_when == "up":
            link.request_start()
        daemon.go()
        await until(lambda: link.state == "gone")
        await asyncio.sleep(0.05)
        assert (link.state, calls) == ("gone", ["start"])
        link.request_start()
        await until(lambda: len(calls) == 2)
        task.cancel()

    run(scene)


def test_comes_back_by_itself_and_forgets_old_workers() -> None:
    async def scene() -> None:
        daemon = FakeDaemon()
        states: list[str] = []
        link = Link(daemon.client, None, lambda: states.append(link.state), sleep=quick)
        task = asyncio.create_task(link.run())
        await until(lambda: link.state == "up")
        assert list(link.workers) == ["guide-0"]
        daemon.go()
        await until(lambda: link.state == "gone")
        assert not link.workers
        daemon.up = True
        await until(lambda: link.state == "up")
        assert list(link.workers) == ["guide-0"]
        assert "starting" not in states
        task.cancel()

    run(scene)


def test_a_daemon_that_stops_answering_is_noticed_by_polling() -> None:
    async def scene() -> None:
        daemon = FakeDaemon()
        link = Link(daemon.client, None, lambda: None, sleep=quick)
        task = asyncio.create_task(link.run())
        await until(lambda: link.state == "up")
        daemon.up = False  # its event stream stays open and silent
        await until(lambda: link.state == "gone")
        task.cancel()

    run(scene)
