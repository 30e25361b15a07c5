"""Connections whose requests are relayed past Sanic, and those that it gets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from daemon.gateway import front
from tests.daemon.harness import (
    CHAT,
    STREAM_END,
    STREAM_HEAD,
    Received,
    Running,
    answer,
    asks,
    daemon,
    event,
    run,
    stream,
    until,
    whole,
    worker,
)

Answer = tuple[int, dict[str, str], bytes]


def asked(body: Any, *fields: str, path: str = CHAT, host: str = "localhost") -> bytes:
    """A plain request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(data)}", *fields]
    if not any(field.lower().startswith("content-type") for field in fields):
        lines.append("Content-Type: application/json")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def unusual(plain: bytes) -> bytes:
    """The same request in a form that is Sanic's to read."""
    head, _, body = plain.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    if "content-length" in headers:
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    assert await reader.readexactly(2) == b"\r\n"
    return int(first.split()[1]), headers, body


async def exchange(fcd: Running, *sent: bytes) -> list[Answer]:
    """What is answered to these over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
    try:
        found = []
        async with asyncio.timeout(10):
            for each in sent:
                writer.write(each)
                found.append(await read_answer(reader))
        return found
    finally:
        writer.close()


STREAM = stream(STREAM_HEAD, event({"n": 1}), event({"n": 2}), event("[DONE]"), STREAM_END)
REFUSAL = answer(b'{"error":{"message":"no","type":"invalid_request_error","param":"n","code":"x"}}', "400 Bad Request")


@pytest.mark.parametrize(
    "request_of",
    [
        asked(asks()),
        asked(asks(stream=True)),
        asked(asks(), "X-Request-Id: mine"),
        asked(asks(), "X-Request-Id: not/harmless"),
        asked(asks(), "Origin: http://localhost"),
        asked(asks(), "Origin: http://elsewhere.example"),
        asked(asks(), host="elsewhere.example"),
        asked(asks(), "Content-Type: text/plain"),
        asked(asks(), "Content-Encoding: gzip"),
        asked(asks(), "Content-Encoding: identity"),
        asked(asks(), "Authorization: Bearer wrong"),
        asked({"messages": []}),
        asked({"model": "m", "stream": 1}),
        asked({"model": "nope"}),
        asked(b'{"model": "m", "model": "n"}'),
        asked(b"{"),
        asked(b"[]"),
        asked(b"\xff"),
        asked({"model": "best"}),
        asked({"model": "arena", "messages": []}),
        asked({"model": "m", "pad": "x" * 300_000}),
        asked({"model": "m"}, path="/v1/completions"),
        asked({"model": "m"}, path="/v1/embeddings"),
    ],
    ids=lambda request: request.partition(b"\r\n\r\n")[2][:30].decode("latin-1"),
)
@pytest.mark.parametrize("script", [answer(b'{"a":1}', "200 OK", "X-Of-Worker: 1"), STREAM, REFUSAL])
def test_both_ways_answer_alike(request_of: bytes, script: Any) -> None:
    def shown(found: Answer) -> tuple[int, dict[str, str], Any]:
        headers = {**found[1], "x-request-id": found[1]["x-request-id"][:4]}
        headers.pop("alt-svc", None)  # empty, and of Sanic's own making
        if found[2].startswith(b'{"error"'):
            headers.pop("content-length")  # of a message with an id in it
            return found[0], headers, json.loads(found[2])["error"]["code"]
        return found[0], headers, found[2]

    async def main() -> None:
        async with worker(script) as first, daemon(first.target) as fcd:
            (plain,), (other,) = await exchange(fcd, request_of), await exchange(fcd, unusual(request_of))
            assert shown(plain) == shown(other)
            if first.received:
                assert first.received[0].body == first.received[1].body

    run(main())


def test_one_connection_takes_every_kind_of_request() -> None:
    async def main() -> None:
        async with worker(answer(b'{"a":1}')) as first, daemon(first.target) as fcd:
            health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
            plain = asked(asks())
            found = await exchange(fcd, plain, plain, health, plain, unusual(plain), plain)
            assert [status for status, _, _ in found] == [200] * 6
            assert len(first.received) == 5

    run(main())


def test_requests_that_are_sent_ahead_are_answered_in_turn() -> None:
    async def main() -> None:
        async def echoes(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.01)
            writer.write(whole("200 OK", request.body))
            await writer.drain()

        async with worker(echoes) as first, daemon(first.target) as fcd:
            reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
            bodies = [asks(number=number, pad="x" * 20_000) for number in range(10)]
            writer.write(b"".join(asked(body) for body in bodies))
            async with asyncio.timeout(10):
                found = [json.loads((await read_answer(reader))[2]) for _ in bodies]
            assert found == bodies
            writer.close()

    run(main())


def test_a_body_that_comes_in_pieces_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with worker(answer(b'{"a":1}')) as first, daemon(first.target) as fcd:
            for pause, most in ((0.0, 5.0), (0.05, 0.02)):  # the second time it takes too long, and goes to Sanic
                monkeypatch.setattr(front, "_BODY_S", most)
                reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
                request = asked(asks())
                at = request.index(b"\r\n\r\n") + 4
                for piece in (request[:at], request[at : at + 7], request[at + 7 :]):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(pause)
                async with asyncio.timeout(5):
                    assert (await read_answer(reader))[2] == b'{"a":1}'
                writer.close()
            assert [each.body for each in first.received] == [json.dumps(asks()).encode()] * 2

    run(main())


def test_a_client_that_wants_the_connection_closed_has_it_closed() -> None:
    async def main() -> None:
        for script in (answer(b"{}"), STREAM):
            async with worker(script) as first, daemon(first.target) as fcd:
                reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
                writer.write(asked(asks(stream=script is STREAM), "Connection: close"))
                async with asyncio.timeout(5):
                    status, headers, _ = await read_answer(reader)
                    assert (status, headers["connection"], await reader.read()) == (200, "close", b"")
                writer.close()

    run(main())


def test_keys_are_asked_for() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            made = await fcd.http.post("/api/keys", json={"name": "k"}, headers=fcd.admin)
            key = made.json()["secret"]
            (refused,), (taken,) = (
                await exchange(fcd, asked(asks())),
                await exchange(fcd, asked(asks(), f"Authorization: Bearer {key}")),
            )
            assert (refused[0], taken[0]) == (401, 200)

    run(main())


def test_a_client_that_leaves_within_its_request_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            for end in (0, 10, 60, -5):
                _, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
                writer.write(asked(asks())[:end])
                await writer.drain()
                writer.close()
                await writer.wait_closed()
            connections = fcd.server._server.connections
            await until(lambda: not connections)
            assert not first.received

    run(main())


def test_connections_where_nothing_comes_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_IDLE_S", 0.1)

    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
            async with asyncio.timeout(5):
                assert await reader.read() == b""
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
            writer.write(asked(asks()))
            async with asyncio.timeout(5):
                assert (await read_answer(reader))[0] == 200
                assert await reader.read() == b""
            writer.close()

    run(main())


def test_a_fault_of_ours_is_a_500_that_says_nothing_of_its_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:

            async def broken(*_: Any, **__: Any) -> Any:
                raise RuntimeError("secret inside")

            monkeypatch.setattr(fcd.controller, "acquire", broken)
            ((status, headers, body),) = await exchange(fcd, asked(asks()))
            assert status == 500
            assert json.loads(body)["error"]["code"] == "internal_error"
            assert b"secret" not in body
            assert headers["x-request-id"]

    run(main())
