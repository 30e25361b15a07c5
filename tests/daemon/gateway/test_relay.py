"""Requests relayed to scripted workers over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest

from daemon.dispatch import Target
from fcd.errors import ApiError
from tests.daemon.harness import (
    CHAT,
    STREAM_END,
    STREAM_HEAD,
    Received,
    answer,
    asks,
    chunk,
    daemon,
    error_of,
    event,
    lines_of,
    run,
    stream,
    until,
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


def test_a_kept_connection_that_the_worker_closed_is_replaced() -> None:
    async def main() -> None:
        async def once(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole("200 OK", b"{}"))
            await writer.drain()
            writer.close()

        async with worker(once) as first, daemon(first.target) as fcd:
            for _ in range(20):
                assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            assert not any(failed for _, failed, _ in fcd.controller.released)

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


def test_a_worker_that_dies_before_its_first_byte_is_replaced_once() -> None:
    async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def main() -> None:
        async with (
            worker(dies) as first,
            worker(answer(b'{"ok":1}'), name="w2") as second,
            daemon(first.target, second.target) as fcd,
        ):
            got = await fcd.http.post(CHAT, json=asks())
            assert got.json() == {"ok": 1}
            assert [each[:2] for each in fcd.controller.released] == [("w1", True), ("w2", False)]
            fcd.controller.targets = [first.target]
            got = await fcd.http.post(CHAT, json=asks())
            assert got.status_code == 502
            assert error_of(got)["code"] == "worker_died"

    run(main())


def test_a_worker_that_cannot_be_reached_is_replaced() -> None:
    async def main() -> None:
        nobody = Target("gone", socket="/nonexistent/socket")
        async with worker(answer(b"{}"), name="w2") as second, daemon(nobody, second.target) as fcd:
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            assert fcd.controller.released[0][:2] == ("gone", True)

    run(main())


def test_a_worker_that_dies_in_the_stream_ends_it_with_an_error_and_no_done() -> None:
    async def main() -> None:
        async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + event({"n": 1}) + chunk(b'data: {"n": 2'))
            await writer.drain()
            writer.transport.abort()

        async with worker(dies) as first, daemon(first.target) as fcd:
            got = await fcd.http.post(CHAT, json=asks(stream=True))
            lines = [line for line in got.text.splitlines() if line]
            assert lines[:2] == ['data: {"n": 1}', "event: error"]
            assert json.loads(lines[2].removeprefix("data: "))["error"]["code"] == "worker_died"
            assert len(lines) == 3
            assert fcd.controller.released[0][:2] == ("w1", True)
            assert (await fcd.http.get("/health")).status_code == 200

    run(main())


def test_a_body_that_breaks_off_is_a_502() -> None:
    async def main() -> None:
        cut = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"half":'

        async def dies(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(cut)
            await writer.drain()
            writer.close()

        async with worker(dies) as first, daemon(first.target) as fcd:
            got = await fcd.http.post(CHAT, json=asks())
            assert got.status_code == 502
            assert error_of(got)["code"] == "worker_died"

    run(main())


def test_a_slow_first_token_gets_comments_then_the_answer() -> None:
    async def main() -> None:
        go = asyncio.Event()
        script = stream(go.wait(), STREAM_HEAD, event({"n": 1}), event("[DONE]"), STREAM_END)
        async with (
            worker(script) as first,
            daemon(first.target, sse_comment_s=0.05) as fcd,
            fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got,
        ):
            lines = got.aiter_lines()
            seen = [await anext(lines) for _ in range(4)]
            assert seen == [": waiting", "", ": waiting", ""]
            go.set()
            rest = [line async for line in lines if line and not line.startswith(":")]
            assert rest == ['data: {"n": 1}', "data: [DONE]"]

    run(main())


def test_waiting_for_a_worker_gets_comments_then_an_error_event() -> None:
    async def main() -> None:
        async with daemon(sse_comment_s=0.05) as fcd:
            fcd.controller.gate = asyncio.Event()
            fcd.controller.error = ApiError(503, "It does not fit.", code="out_of_memory")
            async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                assert got.status_code == 200
                lines = got.aiter_lines()
                assert await anext(lines) == ": waiting"
                fcd.controller.gate.set()
                rest = [line async for line in lines if line and not line.startswith(":")]
            assert rest[0] == "event: error"
            assert json.loads(rest[1].removeprefix("data: "))["error"]["code"] == "out_of_memory"
            assert len(rest) == 2
            fcd.controller.gate = None
            quick = await fcd.http.post(CHAT, json=asks(stream=True))
            assert quick.status_code == 503  # no comment was due, so the status is the error's own

    run(main())


def test_a_refusal_after_comments_is_an_error_event_with_the_worker_s_words() -> None:
    async def main() -> None:
        body = b'{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context"}}'
        script = stream(0.2, whole("400 Bad Request", body))
        async with worker(script) as first, daemon(first.target, sse_comment_s=0.05) as fcd:
            got = await fcd.http.post(CHAT, json=asks(stream=True))
            lines = [line for line in got.text.splitlines() if line and not line.startswith(":")]
            error = json.loads(lines[1].removeprefix("data: "))["error"]
            assert (error["message"], error["param"], error["code"]) == ("too long", "messages", "context")

    run(main())


def test_a_worker_late_with_its_first_byte_or_stalled_is_a_504() -> None:
    async def main() -> None:
        for streams in (False, True):
            async with worker(stream(10.0)) as first, daemon(first.target, first_byte_s=0.1) as fcd:
                got = await fcd.http.post(CHAT, json=asks(stream=streams))
                assert got.status_code == 504
                assert error_of(got)["code"] == "worker_timeout"
                assert fcd.controller.released[0][:2] == ("w1", True)
        async with (
            worker(stream(STREAM_HEAD, event({"n": 1}), 10.0)) as first,
            daemon(first.target, stall_s=0.1) as fcd,
        ):
            got = await fcd.http.post(CHAT, json=asks(stream=True))
            lines = [line for line in got.text.splitlines() if line]
            assert lines[1] == "event: error"
            assert json.loads(lines[2].removeprefix("data: "))["error"]["code"] == "worker_timeout"

    run(main())


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


def test_a_large_body_is_passed_on_without_being_held() -> None:
    async def main() -> None:
        body = b'"' + b"x" * 20_000_000 + b'"'
        async with worker(answer(body)) as first, daemon(first.target) as fcd:
            got = await fcd.http.post("/v1/embeddings", json={"model": "m", "input": "x"})
            assert got.status_code == 200
            assert got.content == body
            assert (await fcd.http.get("/health")).status_code == 200

    run(main())


def test_draining_refuses_new_work_and_cuts_what_does_not_end() -> None:
    async def main() -> None:
        async with worker(stream(STREAM_HEAD, event({"n": 1}), 30.0)) as first, daemon(first.target) as fcd:
            async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
                lines = got.aiter_lines()
                assert await anext(lines) == 'data: {"n": 1}'
                fcd.context.draining = True
                refused = await fcd.http.post(CHAT, json=asks())
                assert refused.status_code == 503
                assert refused.headers["retry-after"]
                assert error_of(refused)["code"] == "shutting_down"
                ready = await fcd.http.get("/ready")
                assert (ready.status_code, ready.json()["ready"]) == (503, False)
                fcd.context.active.cut_all()
                rest = [line async for line in lines if line]
            assert rest[0] == "event: error"
            assert json.loads(rest[1].removeprefix("data: "))["error"]["code"] == "shutting_down"

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


def test_a_workers_redirect_is_not_passed_on() -> None:
    async def main() -> None:
        moved = answer(b"", "307 Temporary Redirect", "Location: http://169.254.169.254/")
        async with worker(moved) as first, daemon(first.target) as fcd:
            got = await fcd.http.post(CHAT, json=asks())
            assert (got.status_code, error_of(got)["code"]) == (502, "bad_upstream")
            assert "location" not in got.headers

    run(main())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
@pytest.mark.parametrize("trusted", [True, False])
def test_workers_behind_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def main() -> None:
        script = stream(STREAM_HEAD, event({"a": 1}), event("[DONE]"), STREAM_END)
        async with worker(script, tls=context) as first:
            target = msgspec.structs.replace(first.target, host="localhost", tls=True)
            async with daemon(target) as fcd:
                got = await fcd.http.post(CHAT, json=asks(stream=True))
                if trusted:
                    assert (await lines_of(got))[-1] == "data: [DONE]"
                    return
                assert got.status_code == 502
                assert "certificate is not trusted" in error_of(got)["message"]
                assert not first.received

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
