"""Registering and beating against a scripted controller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from daemon.worker import registration as module
from daemon.worker.defaults import SamplingDefaults
from daemon.worker.options import WorkerOptions
from daemon.worker.prompts import Prompter
from daemon.worker.registration import Refused, Registration
from daemon.worker.state import Model, Worker
from daemon.worker.tokens import TokenTable
from fcd.wire.controller import FcdExtension
from tests.daemon.worker.fake import FakeEngine, until

Answer = Callable[[str, dict[str, Any]], httpx.Response]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(module, "_LONGEST_WAIT_S", 0.02)


class Controller:
    """Records what it is sent and answers as `answer` says."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.tokens: list[str] = []
        self._answer = answer or (lambda path, body: httpx.Response(200, json={"exist": True}))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        path = request.url.path
        self.seen.append((path, body))
        self.tokens.append(request.headers.get("authorization", ""))
        return self._answer(path, body)

    def count(self, name: str) -> int:
        return sum(path.endswith(name) for path, _ in self.seen)


def run(
    controller: Controller,
    condition: Callable[[Worker], bool],
    *,
    url: str = "http://head:8000",
    said: list[str] | None = None,
) -> None:
    """Run a registration until the condition holds; an exception of its own is raised."""

    async def main() -> None:
        engine = FakeEngine()
        options = WorkerOptions(model="fake", heartbeat_s=0.005, join_token="secret-token")
        worker = Worker(options, ["fake", "alias"])
        worker.model = Model(engine, Prompter(engine.tokenizer, None), TokenTable(engine.tokenizer), SamplingDefaults())
        worker.status = "ok"
        client = httpx.AsyncClient(
            transport=httpx.MockTransport(controller), headers={"Authorization": "Bearer secret-token"}
        )
        registration = Registration(
            worker,
            url,
            address="http://me:1",
            extension=FcdExtension(worker_id="w1", pid=7),
            say=(said if said is not None else []).append,
            client=client,
        )
        running = asyncio.create_task(registration.run())
        waiting = asyncio.create_task(until(lambda: condition(worker)))
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        for task in (running, waiting):
            if not task.done():
                task.cancel()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    asyncio.run(main())


def test_the_body_is_fastchats_with_our_keys_beside_it() -> None:
    controller = Controller()
    run(controller, lambda worker: controller.count("receive_heart_beat") >= 2)
    path, body = controller.seen[0]
    assert path == "/register_worker"
    assert body["worker_name"] == "http://me:1"
    assert body["check_heart_beat"] is True
    assert body["worker_status"] == {"model_names": ["fake", "alias"], "speed": 1, "queue_length": 0}
    assert body["fcd"]["worker_id"] == "w1"
    path, beat = controller.seen[1]
    assert path == "/receive_heart_beat"
    assert (beat["worker_name"], beat["queue_length"]) == ("http://me:1", 0)
    assert "fcd" in beat
    assert set(controller.tokens) == {"Bearer secret-token"}


def test_a_join_url_is_used_as_it_is_and_its_token_is_not_shown() -> None:
    controller = Controller(lambda path, body: httpx.Response(503))
    said: list[str] = []
    run(controller, lambda worker: len(controller.seen) >= 2, url="http://head:8000/join/abc123/", said=said)
    assert controller.seen[0][0] == "/join/abc123/register_worker"
    assert said
    assert "abc123" not in "".join(said)


def test_a_forgotten_worker_registers_again() -> None:
    controller = Controller(lambda path, body: httpx.Response(200, json={"exist": False}))
    run(controller, lambda worker: controller.count("register_worker") >= 3)


def test_beating_survives_every_kind_of_answer() -> None:
    answers = iter([httpx.Response(500), httpx.Response(200, content=b"no json"), httpx.Response(200, json=None)])

    def answer(path: str, body: dict[str, Any]) -> httpx.Response:
        if path == "/register_worker":
            return httpx.Response(200, json=None)
        found = next(answers, None)
        if found is None:
            raise httpx.ConnectError("gone")
        return found

    controller = Controller(answer)
    run(controller, lambda worker: controller.count("receive_heart_beat") >= 6)


def test_nothing_beats_for_a_worker_that_cannot_serve() -> None:
    controller = Controller()
    marks: list[int] = []

    def condition(worker: Worker) -> bool:
        if controller.count("receive_heart_beat") >= 1:
            worker.status = "failed"
            marks.append(controller.count("receive_heart_beat"))
        return len(marks) > 10

    run(controller, condition)
    assert len(set(marks)) <= 2, marks


def test_a_controller_that_is_away_is_waited_for() -> None:
    tries: list[int] = []

    def answer(path: str, body: dict[str, Any]) -> httpx.Response:
        tries.append(1)
        if len(tries) < 4:
            raise httpx.ConnectError("connection refused")
        return httpx.Response(200, json={"exist": True})

    controller, said = Controller(answer), list[str]()
    run(controller, lambda worker: controller.count("receive_heart_beat") >= 1, said=said)
    assert len(said) == 2, said
    assert "connection refused" in said[0]
    assert "Registered" in said[1]


@pytest.mark.parametrize("status", [401, 403, 404, 409])
def test_a_refusal_ends_it_with_the_reason(status: int) -> None:
    body = {"error": {"message": "This token has expired.", "code": "x"}}
    controller = Controller(lambda path, _: httpx.Response(status, json=body))
    with pytest.raises(Refused, match="This token has expired") as caught:
        run(controller, lambda worker: False)
    assert caught.value.hint
    assert controller.count("register_worker") == 1
