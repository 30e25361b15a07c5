"""Bad input on every route: OpenAI's error shape, the right status, no trace, and a daemon that goes on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest

from daemon.access import Need, need_of
from daemon.metrics import Metrics, prometheus_text
from fcd.wire.admin import WorkerInfo
from tests.daemon.harness import CHAT, answer, asks, daemon, error_of, run, worker
from tests.daemon.test_security import routes_of

JSON = {"Content-Type": "application/json"}
RELAYED = [CHAT, "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"]

NOT_USABLE: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"hello",
    "half": b'{"model": "m", ',
    "a list": b'[{"model": "m"}]',
    "a string": b'"m"',
    "null": b"null",
    "not UTF-8": b'{"model": "m", "x": "\xff\xfe"}',
    "NaN": b'{"model": "m", "temperature": NaN}',
    "Infinity": b'{"model": "m", "temperature": -Infinity}',
    "a key twice": b'{"model": "m", "model": "n"}',
    "a key twice, spelled apart": b'{"model": "m", "\\u006dodel": "n"}',
    "another key twice": b'{"model": "m", "n": 1, "n": 2}',
    "two values": b'{"model": "m"} {"model": "m"}',
    "deep lists": b'{"model": "m", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "m", "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "a byte order mark": b'\xef\xbb\xbf{"model": "m"}',
    "UTF-16": '{"model": "m"}'.encode("utf-16"),
}


@pytest.mark.parametrize("what", NOT_USABLE)
def test_a_body_that_cannot_be_used_is_a_400_at_once(what: str) -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            for path in RELAYED:
                began = time.monotonic()
                got = await fcd.http.post(path, content=NOT_USABLE[what], headers=JSON)
                assert got.status_code == 400, path
                assert error_of(got)["type"] == "invalid_request_error"
                assert time.monotonic() - began < 1
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 200
            assert len(first.received) == 1

    run(main())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 1}, "model"),
        ({"model": ["m"]}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 10_000}, "model"),
        ({"model": "a\0b"}, "model"),
        ({"model": "m", "stream": "yes"}, "stream"),
        ({"model": "m", "stream": 1}, "stream"),
        ({"model": "m", "keep_alive": "soon"}, "keep_alive"),
        ({"model": "m", "keep_alive": True}, "keep_alive"),
        ({"model": "m", "keep_alive": []}, "keep_alive"),
        ({}, "model"),
    ],
)
def test_a_routing_field_that_cannot_be_used_is_named(fields: dict[str, Any], param: str) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            got = await fcd.http.post(CHAT, json=fields)
            assert got.status_code == 400
            assert error_of(got)["param"] == param

    run(main())


@pytest.mark.parametrize("name", ["nope", "../../etc/passwd", "/etc/passwd", "m@8bit", "ö"])
def test_an_unknown_model_is_a_404(name: str) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            for streams in (False, True):
                got = await fcd.http.post(CHAT, json=asks(model=name, stream=streams))
                assert got.status_code == 404
                error = error_of(got)
                assert (error["code"], error["param"]) == ("model_not_found", "model")

    run(main())


def test_models_are_listed_with_their_state() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            listed = (await fcd.http.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert [(each["id"], each["object"], each["state"]) for each in listed["data"]] == [
                ("m", "model", "ready"),
                ("org/other", "model", "available"),
                ("best", "model", "available"),
            ]
            assert (await fcd.http.get("/v1/models/m")).json() == listed["data"][0]
            assert (await fcd.http.get("/v1/models/org/other")).json() == listed["data"][1]
            assert (await fcd.http.get("/v1/models/org%2Fother")).json() == listed["data"][1]
            got = await fcd.http.get("/v1/models/mm")
            assert got.status_code == 404
            assert "'m'" in error_of(got)["message"]

    run(main())


def test_every_route_refuses_other_methods_in_the_same_shape() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            answered: dict[str, set[str]] = {}
            for method, _, path in routes_of(fcd):
                answered.setdefault(path, set()).add(method)
            for path, methods in answered.items():
                if need_of(path) is Need.JOIN:
                    continue
                for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - methods:
                    got = await fcd.http.request(method, path, headers=fcd.admin)
                    assert got.status_code == 405, (method, path)
                    assert error_of(got)["code"] == "method_not_allowed"
                    assert got.headers["allow"]

    run(main())


def test_an_unknown_route_is_a_404_in_the_same_shape() -> None:
    async def main() -> None:
        async with daemon() as fcd:
            for path in (
                "/",
                "/nope",
                "/v1",
                "/v1/assistants",
                "/v1/chat",
                "/api/nope",
                "/join",
                "/join/",
                "/favicon.ico",
            ):
                got = await fcd.http.get(path, headers=fcd.admin)
                assert got.status_code == 404, path
                assert error_of(got)["code"] == "not_found"

    run(main())


def test_a_failure_inside_is_a_500_that_says_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with daemon() as fcd:
            got = await fcd.http.post("/api/fails", headers={**fcd.admin, "X-Request-Id": "mine-1"})
            assert got.status_code == 500
            assert error_of(got)["code"] == "internal_error"
            assert "secret" not in got.text
            assert got.headers["x-request-id"] == "mine-1"
            assert (await fcd.http.get("/health")).status_code == 200

    run(main())
    failed = [record for record in caplog.records if record.name == "fcd.daemon" and record.exc_info]
    assert len(failed) == 1
    assert vars(failed[0])["request_id"] == "mine-1"


def test_a_body_over_the_limit_is_a_413_that_can_be_read() -> None:
    async def main() -> None:
        async with daemon(max_body_bytes=100_000) as fcd:
            for path in (CHAT, "/api/keys"):
                began = time.monotonic()
                got = await fcd.http.post(path, content=b"x" * 200_000_000, headers={**JSON, **fcd.admin})
                assert got.status_code == 413, path
                assert error_of(got)["code"] == "request_too_large"
                assert time.monotonic() - began < 5

            async def endless() -> Any:
                for _ in range(1000):
                    yield b"x" * 10_000

            got = await fcd.http.post(CHAT, content=endless(), headers=JSON)
            assert got.status_code == 413
            exact = json.dumps(asks(model="nope", pad="")).encode()
            body = exact.replace(b'"pad": ""', b'"pad": "' + b"x" * (100_000 - len(exact)) + b'"')
            assert len(body) == 100_000
            assert (await fcd.http.post(CHAT, content=body, headers=JSON)).status_code == 404

    run(main())


RAW: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "no version": (b"GET /health\r\n\r\n", 400),
    "two lengths": (
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        400,
    ),
    "length and chunks": (
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        400,
    ),
    "a negative length": (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -2\r\n\r\n", 400),
    "a length of words": (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
    "a long head": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 413),
    "not ASCII": (b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
}


@pytest.mark.parametrize("what", RAW)
def test_malformed_http_is_refused_in_the_same_shape(what: str) -> None:
    sent, status = RAW[what]

    async def main() -> None:
        async with daemon() as fcd:
            reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
            head, _, body = (await asyncio.wait_for(_read_answer(reader), 5)).partition(b"\r\n\r\n")
            assert int(head.split(b" ")[1]) == status
            error = json.loads(body)["error"]
            assert error["message"]
            assert "Traceback" not in body.decode()
            writer.close()
            assert (await fcd.http.get("/health")).status_code == 200

    run(main())


async def _read_answer(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await reader.read(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += await reader.read(65536)
    return head + b"\r\n\r\n" + body


def test_requests_after_another_on_one_connection() -> None:
    async def main() -> None:
        async with worker(answer(b'{"a":1}')) as first, daemon(first.target) as fcd:
            reader, writer = await asyncio.open_connection("127.0.0.1", fcd.port)
            body = json.dumps(asks()).encode()
            request = (
                b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            )
            one = request % (CHAT.encode(), len(body), body)
            writer.write(one * 3)
            for _ in range(3):
                assert (await asyncio.wait_for(_read_answer(reader), 5)).endswith(b'{"a":1}')
            writer.close()

    run(main())


def test_status_logs_and_metrics_tell_the_truth() -> None:
    async def main() -> None:
        async with worker(answer(b"{}")) as first, daemon(first.target) as fcd:
            await fcd.http.post(CHAT, json=asks())
            await fcd.http.post(CHAT, json=asks(model="nope"))
            await fcd.http.post(f"{CHAT}/", json=asks())
            for path, body in ((CHAT, {"model": 5}), ("/v1/responses", {"n": 2}), ("/tokenize", [])):
                assert (await fcd.http.post(path, json=body)).status_code == 400
            status = (await fcd.http.get("/api/status", headers=fcd.admin)).json()
            assert status["url"] == fcd.url
            assert status["ready"] is True
            assert status["uptime_s"] >= 0
            assert [each["name"] for each in status["workers"]] == ["w1"]
            assert (await fcd.http.get("/ready")).json() == {"ready": True, "reasons": [], "warnings": []}
            fcd.paths.daemon_log.write_text('{"time":1.0,"level":"info","logger":"a","message":"hello"}\nplain\n')
            lines = (await fcd.http.get("/api/logs?lines=2", headers=fcd.admin)).json()["lines"]
            assert lines[0].endswith("info    a: hello")
            assert lines[1] == "plain"
            for bad in ("0", "-1", "x", "99999", "1e3", "٣"):
                got = await fcd.http.get("/api/logs", params={"lines": bad}, headers=fcd.admin)
                assert got.status_code == 400, bad
                assert error_of(got)["param"] == "lines"
            text = (await fcd.http.get("/metrics")).text
            assert f'fcd_requests_total{{route="{CHAT}",status="200"}} 2' in text
            for path in (CHAT, "/v1/responses", "/tokenize"):
                assert f'fcd_requests_total{{route="{path}",status="400"}} 1' in text
            assert f"{CHAT}/" not in text
            assert f'fcd_requests_total{{route="{CHAT}",status="404"}} 1' in text
            assert 'vllm:num_requests_running{model_name="m",worker="w1"} 2' in text
            assert "fcd_first_byte_seconds_count 2" in text

    run(main())


def test_counters_keep_every_digit() -> None:
    worker = WorkerInfo("w1", ["m"], "ready", generated_tokens=123_456_789, prompt_tokens=7, kv_used=0.25)
    text = prometheus_text(Metrics(), [worker], running=0, uptime_s=1.0, ready=True)
    assert 'vllm:generation_tokens_total{model_name="m",worker="w1"} 123456789\n' in text
    assert 'vllm:prompt_tokens_total{model_name="m",worker="w1"} 7\n' in text
    assert 'vllm:kv_cache_usage_perc{model_name="m",worker="w1"} 0.25\n' in text
