"""Clients that leave, or take their answer slowly or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import httpx2 as httpx

from tests.daemon.harness import (
    CHAT,
    STREAM_END,
    STREAM_HEAD,
    Received,
    asks,
    daemon,
    event,
    run,
    until,
    worker,
)


def test_a_client_that_leaves_ends_the_work_at_once() -> None:
    async def main() -> None:
        for streams in (False, True):
            started = asyncio.Event()

            async def endless(
                request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, started: Any = started
            ) -> None:
                if json.loads(request.body)["stream"]:
                    writer.write(STREAM_HEAD + event({"n": 0}))
                    await writer.drain()
                started.set()
                assert await reader.read(1) == b""
                raise ConnectionResetError

            async with worker(endless) as first, daemon(first.target) as fcd:
                long = "x" * 200_000  # more than Sanic reads at once
                async with httpx.AsyncClient(base_url=fcd.url) as leaving:
                    asking = asyncio.create_task(leaving.post(CHAT, json=asks(stream=streams, pad=long)))
                    await asyncio.wait_for(started.wait(), 5)
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                await asyncio.wait_for(first.left.wait(), 1)
                await until(lambda fcd=fcd: fcd.controller.released == [("w1", False, "the client left")])
                assert len(fcd.context.active) == 0

    run(main())


def test_a_client_that_leaves_while_it_waits_gives_its_place_back() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            fcd.controller.gate = asyncio.Event()
            async with httpx.AsyncClient(base_url=fcd.url) as leaving:
                asking = asyncio.create_task(leaving.post(CHAT, json=asks(stream=True)))
                await until(lambda: len(fcd.context.active) == 1)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            await until(lambda: len(fcd.context.active) == 0)

    run(main())


def test_a_slow_client_slows_the_worker_down() -> None:
    async def main() -> None:
        sent = 0
        piece = event("x" * 65536)

        async def firehose(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(STREAM_HEAD)
            for _ in range(1000):
                writer.write(piece)
                await writer.drain()
                sent += 1
            writer.write(STREAM_END)
            await writer.drain()

        async with worker(firehose) as first, daemon(first.target) as fcd:
            async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                raw = got.aiter_raw(1 << 16)
                await anext(raw)
                await asyncio.sleep(0.3)
                stuck = sent
                assert stuck < 500, "the worker was never held back"
                total = 0
                async for data in raw:
                    total += len(data)
            assert sent == 1000
            assert total > 1000 * 65536 - (1 << 16)

    run(main())


def test_three_hundred_clients_that_leave_at_any_moment_leave_nothing_behind() -> None:
    async def main() -> None:
        async def slow(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(random.random() * 0.05)
            writer.write(STREAM_HEAD)
            for number in range(20):
                writer.write(event({"n": number}))
                await writer.drain()
                await asyncio.sleep(0.005)
            writer.write(STREAM_END)
            await writer.drain()

        random.seed(7)
        async with worker(slow) as first, daemon(first.target, sse_comment_s=0.02) as fcd:
            acquired = 0
            plain = fcd.controller.acquire

            async def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal acquired
                await asyncio.sleep(random.random() * 0.05)
                lease = await plain(*args, **kwargs)
                acquired += 1
                return lease

            fcd.controller.acquire = counted  # type: ignore[method-assign]

            async def leave() -> None:
                body = json.dumps(asks(stream=random.random() < 0.8)).encode()
                head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(random.random() * 0.2):
                        await reader.readuntil(b"\r\n0\r\n\r\n")
                writer.close()

            for _ in range(10):
                await asyncio.gather(*(leave() for _ in range(30)))
            await until(lambda: len(fcd.context.active) == 0)
            assert len(fcd.controller.released) == acquired > 100
            assert not any(failed for _, failed, _ in fcd.controller.released)
            fcd.controller.acquire = plain  # type: ignore[method-assign]
            got = await fcd.http.post(CHAT, json=asks(stream=True))
            assert got.text.count("data:") == 20
            log = fcd.context.metrics
            assert log.disconnects > 50

    run(main())


def test_a_client_that_takes_nothing_is_let_go_and_the_worker_is_not_blamed() -> None:
    async def main() -> None:
        piece = event("x" * 65536)

        async def firehose(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD)
            for _ in range(10_000):
                writer.write(piece)
                await writer.drain()

        async with worker(firehose) as first, daemon(first.target, stall_s=0.4) as fcd:
            async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                raw = got.aiter_raw(1 << 16)
                await anext(raw)
                await until(lambda: fcd.controller.released, what="the worker to be free again")
            ((name, failed, reason),) = fcd.controller.released
            assert (name, failed) == ("w1", False), "nobody may hold the worker, or its name, to account for it"
            assert "client took nothing" in reason
            await until(lambda: not fcd.context.active)

    run(main())
