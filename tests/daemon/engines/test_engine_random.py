"""Many random requests at once, with cancels, shared prefixes and little memory, against the slow and obvious way."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from daemon.engines.base import Engine, GenerationRequest, SamplingParams
from daemon.engines.transformers.engine import TransformersEngine
from tests.daemon.engines.harness import Answer, collect, nothing_held, with_engine
from tests.daemon.engines.test_engine_greedy import reference
from tests.tiny_models import VOCABULARY

REQUESTS = 150
PER_TOKEN = 3 * 2 * 16 * 2 * 4


def random_request(rng: random.Random, number: int, system: list[int]) -> GenerationRequest:
    prompt = [rng.randrange(3, VOCABULARY) for _ in range(rng.choice([1, 3, 20, 90, 200]))]
    if rng.random() < 0.4:
        prompt = [*system, *prompt]
    greedy = rng.random() < 0.5
    count = rng.randint(1, 40)
    values: dict[str, Any] = {"max_tokens": count, "ignore_eos": True, "temperature": 0.0}
    if not greedy:
        values |= {
            "temperature": rng.choice([0.3, 1.0, 1.5]),
            "seed": rng.randrange(1000),
            "top_k": rng.choice([0, 0, 7, 60]),
            "top_p": rng.choice([1.0, 0.9, 0.5]),
            "min_p": rng.choice([0.0, 0.0, 0.1]),
            "repetition_penalty": rng.choice([1.0, 1.0, 1.3]),
            "frequency_penalty": rng.choice([0.0, 0.0, 0.7]),
            "logprobs": rng.choice([None, 2]),
            "ignore_eos": rng.random() < 0.5,
            "min_tokens": rng.choice([0, 2]),
            "stop": rng.choice([(), ("e",), ("zz", "Q!")]),
        }
    n = rng.choice([1, 1, 1, 3])
    return GenerationRequest(str(number), prompt, SamplingParams(**values), n=n, best_of=n)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests(seed: int) -> None:
    rng = random.Random(seed)
    system = [rng.randrange(3, VOCABULARY) for _ in range(120)]
    requests = [random_request(rng, i, system) for i in range(REQUESTS)]
    leaving = {i for i in range(REQUESTS) if rng.random() < 0.2}

    async def test(engine: Engine) -> None:
        answers: dict[int, dict[int, Answer]] = {}

        async def run(number: int, pause: int) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            stream = engine.generate(requests[number])
            if number in leaving:
                async for _ in stream:
                    break
                await stream.aclose()  # type: ignore[attr-defined]
            else:
                answers[number] = await collect(engine, requests[number])

        await asyncio.gather(*(run(i, rng.randrange(400)) for i in range(REQUESTS)))
        await nothing_held(engine)
        checked = 0
        for number, got in answers.items():
            request = requests[number]
            assert sorted(got) == list(range(request.n))
            if request.params.temperature == 0.0:
                want = reference("llama", list(request.prompt_ids), request.params.max_tokens)
                assert all(answer.ids == want for answer in got.values())
            elif checked < 40:
                checked += 1
                again = await collect(engine, request)
                assert [again[i].ids for i in sorted(again)] == [got[i].ids for i in sorted(got)]
                assert [again[i].text for i in sorted(again)] == [got[i].text for i in sorted(got)]
        await nothing_held(engine)
        assert isinstance(engine, TransformersEngine)
        core = engine._core
        assert core._pool.reserved <= core._pool.budget
        assert core._runner.memory_bytes() == core._pool.reserved
        assert not core._requests
        assert not engine._outboxes

    with_engine("llama", test, kv_bytes=PER_TOKEN * 3000, max_batch=16, max_waiting=2000)
