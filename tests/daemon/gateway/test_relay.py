"""Requests relayed to scripted workers over real sockets: what is passed on, and how."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.daemon.harness import (
    CHAT,
    STREAM_END,
    STREAM_HEAD,
    Received,
    answer,
    asks,
    chunk,
    daemon,
    event,
    lines_of,
    run,
    stream,
    whole,
    worker,
)

JSON = {"Content-Type": "application/json"}


def test_an_answer_is_passed_on_untouched() -> None:
    async def main() -> None:
        body = b'{"id": "x", "choices":  []}'
        async with (
            worker(answer(body, "200 OK", "X-Request-Id: from-worker", "Set-Cookie: a=b")) as first,
            daemon(first.target) as fcd,
        ):
            got = await fcd.http.post(CHAT, json=asks(temperature=0.25))
            assert (got.status_code, got.content) == (200, body)
            assert got.headers["content-type"] == "application/json"
            assert got.headers["x-request-id"] == "from-worker"
            assert "set-cookie" not in got.headers
            assert json.loads(first.received[0].body) == asks(temperature=0.25)
            assert first.received[0].path == CHAT
            assert fcd.controller.released == [("w1", False, "")]

    run(main())


@pytest.mark.parametrize(("given", "passed"), [("5m", "5m"), (-1, "-1.000000"), (0, "0.000000"), (None, "")])
def test_keep_alive_is_told_to_the_controller_and_to_the_worker(given: Any, passed: str) -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            assert (await fcd.http.post(CHAT, json=asks(keep_alive=given))).status_code == 200
            assert fcd.controller.keep_alive == passed
            assert json.loads(first.received[0].body)["keep_alive"] == given

    run(main())


def test_connections_to_a_worker_are_kept_over_a_unix_socket(tmp_path: Path) -> None:
    async def main() -> None:
        async with worker(answer(b"{}"), folder=tmp_path) as first, daemon(first.target) as fcd:
            for _ in range(5):
                assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            assert first.connections == 1

    run(main())


def test_a_worker_s_refusal_keeps_its_status_and_body() -> None:
    async def main() -> None:
        body = b'{"error":{"message":"n is too large","type":"invalid_request_error","param":"n","code":"x"}}'
        async with worker(answer(body, "400 Bad Request")) as first, daemon(first.target) as fcd:
            for streams in (False, True):
                got = await fcd.http.post(CHAT, json=asks(stream=streams, n=10**6))
                assert (got.status_code, got.content) == (400, body)

    run(main())


def test_a_stream_is_passed_on_as_it_comes() -> None:
    async def main() -> None:
        second = asyncio.Event()
        script = stream(STREAM_HEAD, event({"n": 1}), second.wait(), event({"n": 2}), event("[DONE]"), STREAM_END)
        async with worker(script) as first, daemon(first.target) as fcd:
            async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                assert got.headers["content-type"].startswith("text/event-stream")
                lines = got.aiter_lines()
                assert await anext(lines) == 'data: {"n": 1}'
                second.set()
                assert [line async for line in lines if line] == ['data: {"n": 2}', "data: [DONE]"]
            again = await fcd.http.get("/health")  # the connection is still good
            assert again.status_code == 200
            assert fcd.controller.released == [("w1", False, "")]

    run(main())


def test_many_streams_over_kept_connections_stay_whole() -> None:
    async def main() -> None:
        pieces = [event({"n": number, "text": "é" * (number % 40)}) for number in range(200)]
        async with worker(stream(STREAM_HEAD, *pieces, STREAM_END)) as first, daemon(first.target) as fcd:

            async def one() -> list[str]:
                async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                    return await lines_of(got)

            answers = [each for _ in range(3) for each in await asyncio.gather(*(one() for _ in range(20)))]
            expected = [piece.split(b"\r\n", 1)[1].decode().strip() for piece in pieces]
            assert all(each == expected for each in answers)
            assert len(fcd.context.active) == 0

    # the worker's script reuses its pieces, so that every stream is the same
    run(main())


def test_events_cut_anywhere_arrive_whole() -> None:
    async def main() -> None:
        text = b'data: {"a": 1}\n\ndata: {"b": 2}\r\n\r\ndata: [DONE]\n\n'
        pieces = [chunk(text[at : at + 1]) for at in range(len(text))]
        async with worker(stream(STREAM_HEAD, *pieces, STREAM_END)) as first, daemon(first.target) as fcd:
            got = await fcd.http.post(CHAT, json=asks(stream=True))
            assert got.content == text

    run(main())


def test_a_large_body_is_passed_on_without_being_held() -> None:
    async def main() -> None:
        body = b'"' + b"x" * 20_000_000 + b'"'
        async with worker(answer(body)) as first, daemon(first.target) as fcd:
            got = await fcd.http.post("/v1/embeddings", json={"model": "m", "input": "x"})
            assert got.status_code == 200
            assert got.content == body
            assert (await fcd.http.get("/health")).status_code == 200

    run(main())


def test_tokenizer_routes_take_the_only_model_that_runs() -> None:
    async def main() -> None:
        async with worker(answer(b'{"tokens":[1]}')) as first, daemon(first.target) as fcd:
            assert (await fcd.http.post("/tokenize", json={"prompt": "x"})).json() == {"tokens": [1]}
            assert (await fcd.http.get("/tokenizer_info")).status_code == 200
            assert (await fcd.http.get("/tokenizer_info?model=m")).status_code == 200
            assert first.received[-1].path == "/tokenizer_info?model=m"
            assert (await fcd.http.get("/tokenizer_info?model=nope")).status_code == 404

    run(main())


def test_the_model_is_called_as_the_worker_calls_it() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first:
            target = msgspec.structs.replace(first.target, names={"m": "vendor/m-1"})
            async with daemon(target) as fcd:
                assert (
                    await fcd.http.post(CHAT, content=b'{"model":"m","a":[1.50, {"b":null}]}', headers=JSON)
                ).is_success
                assert json.loads(first.received[0].body) == {"model": "vendor/m-1", "a": [1.5, {"b": None}]}
                assert b"1.50" in first.received[0].body

    run(main())


def test_connections_that_nobody_uses_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.gateway import upstream

    monkeypatch.setattr(upstream, "_IDLE_S", 0.2)

    async def main() -> None:
        closed = asyncio.Event()

        async def stays(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole("200 OK", b"{}"))
            await writer.drain()
            if not await reader.read(1):
                closed.set()

        async with worker(stays) as first, daemon(first.target) as fcd:
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            async with asyncio.timeout(5):
                await closed.wait()

    run(main())
