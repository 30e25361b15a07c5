"""Workers that die, stall, refuse or cannot be reached, as the client sees it."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from pathlib import Path

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
    whole,
    worker,
)


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


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/tokenize"])
def test_a_request_does_not_go_round_between_daemons(path: str, streams: bool) -> None:
    async def main() -> None:
        async with daemon() as one, daemon() as two:
            one.controller.targets = [Target("two", port=two.port)]
            two.controller.targets = [Target("one", port=one.port)]
            one.controller.daemons = two.controller.daemons = {"one", "two"}
            asked = {"model": "m", "input": "x"} if path == "/v1/responses" else asks()
            # Each way of a daemon counts: the plain one of the front, and Sanic's.
            for body in (
                json.dumps({**asked, "stream": streams}).encode(),
                b" " * 300_000 + json.dumps(asked).encode(),
            ):
                got = await one.http.post(path, content=body, headers={"Content-Type": "application/json"})
                error = error_of(got)
                assert (got.status_code, error["code"]) == (508, "loop")
            assert len(one.controller.released) == 2 * 2
            assert len(two.controller.released) == 2 * 2

    run(main())


def test_what_daemons_passed_on_still_reaches_a_worker_that_is_none() -> None:
    async def main() -> None:
        async with (
            worker(answer(b'{"ok":1}'), name="far") as far,
            worker(answer(b'{"ok":2}'), name="near") as near,
            daemon(far.target) as fcd,
        ):
            fcd.controller.daemons = {"far"}
            for hops, status in (("1", 200), ("3", 200), ("4", 508), ("x", 200)):
                got = await fcd.http.post(CHAT, json=asks(), headers={"X-Fcd-Hops": hops})
                assert got.status_code == status
            assert [request.headers["x-fcd-hops"] for request in far.received] == ["2", "4", "1"]
            fcd.controller.targets = [far.target, near.target]
            for hops, served in (("3", 1), ("4", 2), ("9", 2)):
                got = await fcd.http.post(CHAT, json=asks(), headers={"X-Fcd-Hops": hops})
                assert got.json() == {"ok": served}

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
