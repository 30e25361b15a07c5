"""The program around the routes, in this process with a scripted engine: draining, a second stop, a dead engine."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx2 as httpx
import msgspec

from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.worker.options import WorkerOptions
from daemon.worker.program import Program
from daemon.worker.report import Reporter
from fcd.errors import ApiError, ModelLoadError
from fcd.wire.admin import WorkerEvent
from tests.daemon.worker.fake import FakeEngine, events_of, until

STREAM = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Closing(FakeEngine):
    """Ends what runs when it is closed, as engines do."""

    async def close(self) -> None:
        await super().close()
        self.fail, self.fail_after = ApiError(503, "The model is being unloaded.", code="worker_died"), 3
        self.hold = None
        self.go.set()


def live(
    engine: FakeEngine | Exception,
    test: Callable[[Program, httpx.AsyncClient], Awaitable[None]],
    *,
    drain_s: float = 10,
) -> tuple[int, list[WorkerEvent]]:
    """Run a program around `test`; its exit code and events."""
    events = io.BytesIO()

    async def load(options: LoadOptions, progress: LoadProgress) -> Engine:
        progress("weights", 1, 2)
        if isinstance(engine, Exception):
            raise engine
        return engine  # type: ignore[return-value]

    async def main() -> int:
        program = Program(
            WorkerOptions(model="fake", drain_s=drain_s),
            names=["fake"],
            locate=lambda progress: Path("/nowhere"),
            load=load,
            load_options=LoadOptions(path=""),
            reporter=Reporter(events=events, stderr=io.StringIO()),
        )
        running = asyncio.create_task(program.run())
        await until(lambda: bool(program.address) or running.done())
        async with httpx.AsyncClient(base_url=program.address, timeout=10) as client:
            await until(lambda: program.worker.status != "loading" or running.done())
            await test(program, client)
        return await asyncio.wait_for(running, 10)

    code = asyncio.run(main())
    return code, [msgspec.json.decode(line, type=WorkerEvent) for line in events.getvalue().splitlines()]


def test_draining_lets_a_stream_finish_and_refuses_new_work() -> None:
    engine = Closing(hold=2)

    async def test(program: Program, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            pieces = answer.aiter_text()
            text = await anext(pieces)
            program.stop()
            await until(lambda: program.worker.status == "draining")
            refused = await client.post("/v1/chat/completions", json=STREAM)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            engine.go.set()
            text += "".join([piece async for piece in pieces])
        assert text.endswith("data: [DONE]\n\n")

    code, events = live(engine, test)
    assert code == 0
    assert engine.closed
    assert [event.event for event in events][-1] == "ready"


def test_a_second_stop_cuts_with_an_error_event() -> None:
    async def test(program: Program, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            pieces = answer.aiter_text()
            text = await anext(pieces)
            program.stop()
            program.stop()
            text += "".join([piece async for piece in pieces])
        assert events_of(text)[-1][0] == "error"
        assert "[DONE]" not in text

    assert live(Closing(hold=2), test)[0] == 0


def test_the_deadline_cuts_too() -> None:
    async def test(program: Program, client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            pieces = answer.aiter_text()
            text = await anext(pieces)
            program.stop()
            text += "".join([piece async for piece in pieces])
        assert events_of(text)[-1][0] == "error"

    assert live(Closing(hold=2), test, drain_s=0.1)[0] == 0


def test_a_dead_engine_ends_the_program_to_be_started_again() -> None:
    error = ApiError(500, "The engine stopped: CUDA error.", code="internal_error")

    async def test(program: Program, client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/chat/completions", json={**STREAM, "stream": False})
        assert answer.status_code == 500

    code, events = live(FakeEngine(fail=error), test)
    assert code == 1
    assert events[-1].event == "error"
    assert "CUDA error" in events[-1].error


def test_one_failed_request_does_not_end_a_living_engine() -> None:
    engine = FakeEngine(fail=ApiError(500, "This one failed.", code="internal_error"))
    engine.fail_after = 3

    async def test(program: Program, client: httpx.AsyncClient) -> None:
        assert (await client.post("/v1/chat/completions", json={**STREAM, "stream": False})).status_code == 500
        await until(lambda: len(engine.requests) == 2 and engine.running == 0)
        engine.fail = None
        assert (await client.post("/v1/chat/completions", json={**STREAM, "stream": False})).status_code == 200
        program.stop()

    assert live(engine, test)[0] == 0


def test_a_failed_load_is_an_error_event_and_exit_code_1() -> None:
    async def test(program: Program, client: httpx.AsyncClient) -> None:
        return

    code, events = live(ModelLoadError("It does not fit.", hint="Try --load-8bit."), test)
    assert code == 1
    assert [event.event for event in events] == ["progress", "progress", "error"]
    assert "--load-8bit" in events[-1].error
