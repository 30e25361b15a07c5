"""Load tiny models and collect what an engine answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from daemon.engines.base import Delta, Engine, GenerationRequest, LoadOptions, SamplingParams
from daemon.engines.transformers import load_engine
from tests.tiny_models import tiny_model


@dataclass
class Answer:
    """One choice, its deltas put together."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    logprobs: list[Any] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)


async def collect(engine: Engine, request: GenerationRequest) -> dict[int, Answer]:
    """Every choice of a request."""
    answers: dict[int, Answer] = {}
    async for delta in engine.generate(request):
        answer = answers.setdefault(delta.index, Answer())
        assert answer.finish_reason is None, "a delta after the last"
        answer.text += delta.text
        answer.ids += delta.token_ids
        answer.logprobs += delta.logprobs
        answer.finish_reason, answer.stop_reason = delta.finish_reason, delta.stop_reason
        answer.deltas.append(delta)
    return answers


async def ask(engine: Engine, ids: list[int], **params: Any) -> Answer:
    """One greedy choice that does not stop at an end-of-sequence token, unless `params` say otherwise."""
    chosen = SamplingParams(**{"temperature": 0.0, "ignore_eos": True, **params})
    return (await collect(engine, GenerationRequest("r", ids, chosen)))[0]


def with_engine(family: str, test: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    """Load a tiny model, run `test` on it, and see that nothing is held at the end."""

    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(tiny_model(family)), **options), lambda *progress: None)
        try:
            await test(engine)
            await nothing_held(engine)
        finally:
            await engine.close()

    asyncio.run(main())


async def nothing_held(engine: Engine) -> None:
    """Wait until no sequence runs or waits and no KV row is in use."""
    await until(lambda: not ((stats := engine.stats()).running or stats.waiting or stats.kv_used))


async def until(condition: Callable[[], bool]) -> None:
    """Wait, ten seconds at most, for what the engine's thread will do."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
