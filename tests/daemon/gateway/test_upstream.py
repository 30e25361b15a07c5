"""Connections to the sockets of workers on this machine."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.dispatch import Target
from daemon.gateway import upstream
from daemon.gateway.exchange import Exchange
from daemon.gateway.upstream import UpstreamLost, UpstreamPool
from tests.daemon.harness import CHAT, answer, asks, daemon, run, until, worker

pytestmark = pytest.mark.skipif(os.name == "nt", reason="unix sockets")


def test_the_first_bytes_leave_before_the_loop_s_next_turn(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            pool, exchange = UpstreamPool(), Exchange()
            connection = pool.connect_now(Target("w", socket=str(tmp_path / "s")))
            assert connection is not None
            connection.send(exchange, b"x" * 1000)
            theirs, _ = listener.accept()
            with theirs:
                theirs.setblocking(False)
                assert theirs.recv(2000) == b"x" * 1000
                theirs.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                async with asyncio.timeout(5):
                    await exchange.done
                assert exchange.body() == b"ok"
            pool.close()

    run(main())


def test_a_body_that_the_socket_does_not_take_at_once_arrives_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with worker(answer(b"{}"), folder=tmp_path) as first, daemon(first.target) as fcd:
            body = asks(pad="x" * 5_000_000)
            assert (await fcd.http.post(CHAT, json=body)).status_code == 200
            assert len(first.received[0].body) > 5_000_000
            assert first.connections == 1

    run(main())


def test_one_that_is_closed_at_once_leaves_nothing_open(tmp_path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not list open files")

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen(64)
            pool = UpstreamPool()
            target = Target("w", socket=str(tmp_path / "s"))
            warm = pool.connect_now(target)
            assert warm is not None
            await until(lambda: not pool._attaching)
            before = opened()
            for _ in range(20):
                connection = pool.connect_now(target)
                assert connection is not None
                connection.send(Exchange(), b"x")
                connection.close()
            assert opened() > before
            await until(lambda: opened() == before)
            warm.close()

    run(main())


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket where as many wait as may."""
    path = str(tmp_path / "s")
    waiting: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        try:
            while True:
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(path)
        except BlockingIOError:
            pass
        yield listener, path
        for each in waiting:
            each.close()


def test_where_as_many_wait_as_may_a_request_waits_too(full: tuple[socket.socket, str]) -> None:
    async def main() -> None:
        listener, path = full
        pool = UpstreamPool()
        assert pool.connect_now(Target("w", socket=path)) is None
        waiting = asyncio.create_task(pool.connect(Target("w", socket=path)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        theirs, _ = listener.accept()
        async with asyncio.timeout(5):
            connection = await waiting
        connection.close()
        theirs.close()

    run(main())


def test_where_nobody_lets_it_in_it_is_lost(full: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CONNECT_S", 0.05)

    async def main() -> None:
        with pytest.raises(UpstreamLost, match="no connection within"):
            await UpstreamPool().connect(Target("w", socket=full[1]))

    run(main())
