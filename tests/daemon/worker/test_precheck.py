"""Controllers are asked before anything is loaded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from daemon.worker.options import WorkerOptions
from daemon.worker.precheck import check_controllers
from daemon.worker.program import Program
from daemon.worker.registration import Refused
from daemon.worker.report import Reporter
from fcd.errors import EXIT_FAILED, FcdError
from tests.daemon.worker.test_pieces import options as worker_options

Handler = Callable[[httpx.Request], httpx.Response]


def check(handler: Handler, *urls: str, said: list[str] | None = None) -> None:
    async def main() -> None:
        client = httpx.AsyncClient(transport=httpx.MockTransport(handler), headers={"Authorization": "Bearer t"})
        say = (said if said is not None else []).append
        await check_controllers(urls, "http://me:1", "t", say, client=client, pause_s=0.0)

    asyncio.run(main())


@pytest.mark.parametrize(("status", "hint"), [(401, "fcd token create"), (403, "--worker-address"), (404, "base URL")])
def test_a_refusal_names_the_cause_and_the_next_step(status: int, hint: str) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": {"message": "This token is not known."}})

    with pytest.raises(Refused, match="This token is not known") as failure:
        check(handler, "http://head:8000/join/secret")
    assert hint in failure.value.hint
    assert "secret" not in str(failure.value)


def test_a_controller_that_answers_is_asked_once_and_takes_an_unknown_worker() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json={"exist": False})

    check(handler, "http://fastchat:21001")
    ((path, body),) = seen
    assert path == "/receive_heart_beat"
    assert (body["worker_name"], body["queue_length"]) == ("http://me:1", 0)


def test_nobody_there_says_so_after_a_few_tries() -> None:
    tries: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        tries.append(request.url.host)
        raise httpx.ConnectError("connection refused")

    with pytest.raises(FcdError, match=r"cannot be reached.*http://head:8000: connection refused") as failure:
        check(handler, "http://head:8000")
    assert "fcd daemon status" in failure.value.hint
    assert len(tries) == 3


def test_one_of_several_that_is_away_and_one_that_is_busy_are_no_reason_to_stop() -> None:
    said: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "away":
            raise httpx.ConnectError("no route")
        return httpx.Response(503, json={"error": {"message": "Starting."}})

    check(handler, "http://away:1", "http://busy:2", said=said)
    assert len(said) == 1
    assert "http://away:1" in said[0]


def test_nothing_is_loaded_for_a_controller_that_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            answer = b'{"error": {"message": "This token is not known."}}'
            self.send_response(401)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    looked_for: list[bool] = []

    def locate(progress: Any) -> Path:
        looked_for.append(True)
        return tmp_path

    async def load(*_: Any) -> Any:
        raise AssertionError("it must not load")

    async def main() -> int:
        options: WorkerOptions = worker_options(
            controllers=(f"http://127.0.0.1:{server.server_address[1]}",), join_token="bad"
        )
        from daemon.engines.base import LoadOptions

        program = Program(
            options,
            names=["m"],
            locate=locate,
            load=load,
            load_options=LoadOptions(path=""),
            reporter=Reporter(events=None),
        )
        return await program.run()

    try:
        assert asyncio.run(main()) == EXIT_FAILED
    finally:
        server.shutdown()
        server.server_close()
    assert not looked_for
    said = capsys.readouterr().err
    assert "This token is not known." in said
    assert "fcd token create" in said
