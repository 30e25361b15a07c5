"""Many random requests at once, with cancels, schemas, shared prefixes and little memory, against the plain way."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.engines.base import Engine, GenerationRequest, Grammar, GrammarSpec, SamplingParams, SchemaSource
from daemon.engines.transformers.engine import TransformersEngine
from tests.daemon.engines.harness import Answer, collect, nothing_held, with_engine
from tests.daemon.engines.test_engine_greedy import reference
from tests.tiny_models import VOCABULARY

PER_TOKEN = 3 * 2 * 16 * 2 * 4
REPEATED = 40
"""Seeded requests that are asked once more, alone."""
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"enum": ["red", "green", 7, None]},
)


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


def with_form(rng: random.Random, request: GenerationRequest, grammars: list[Grammar]) -> tuple[GenerationRequest, int]:
    """Some of the sampled requests get a schema; its number, -1 for none."""
    if request.params.temperature == 0.0 or rng.random() > 0.3:
        return request, -1
    form = rng.randrange(len(grammars))
    params = replace(request.params, stop=(), min_tokens=0, ignore_eos=False)
    return replace(request, params=params, grammar=grammars[form]), form


def fits(text: str, schema: dict[str, Any]) -> bool:
    from jsonschema import Draft202012Validator

    return bool(Draft202012Validator(schema).is_valid(json.loads(text)))


def nothing_leaked(engine: Engine) -> None:
    """No request, row, slot or byte is held that the cache of prefixes does not account for."""
    assert isinstance(engine, TransformersEngine)
    core, pool = engine._core, engine._core._pool
    assert not core._requests
    assert not engine._outboxes
    assert not core.scheduler.running
    assert not core.scheduler.waiting
    assert pool.reserved <= pool.budget
    assert core._runner.memory_bytes() == pool.reserved
    assert all(row.state == "cached" for row in pool.rows())
    assert len(pool.rows()) <= pool.max_cached
    slots = sum(len(each.slots) * each.capacity for each in pool.classes)
    assert slots * pool.bytes_per_token == pool.reserved
    for size_class in pool.classes:
        assert all(row is None or row.slot == slot for slot, row in enumerate(size_class.slots))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "count"), [(1, 150), (2, 500)])
def test_random_requests(seed: int, count: int) -> None:
    rng = random.Random(seed)
    system = [rng.randrange(3, VOCABULARY) for _ in range(120)]

    async def test(engine: Engine) -> None:
        specs = [GrammarSpec({"type": "schema", "index": 0}, (SchemaSource(schema, "s"),)) for schema in SCHEMAS]
        grammars = [await engine.compile_grammar(spec) for spec in specs]
        asked = [with_form(rng, random_request(rng, i, system), grammars) for i in range(count)]
        requests, forms = [request for request, _ in asked], [form for _, form in asked]
        leaving = {i for i in range(count) if rng.random() < 0.2}
        answers: dict[int, dict[int, Answer]] = {}

        async def run(number: int, pause: int, patience: int) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            if number not in leaving:
                answers[number] = await collect(engine, requests[number])
                return
            stream = engine.generate(requests[number])
            if patience == 0:
                # Gone before anything came: the task is cancelled, as when a client hangs up.
                task = asyncio.ensure_future(collect(engine, requests[number]))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return
            async for _ in stream:
                patience -= 1
                if patience == 0:
                    break
            await stream.aclose()  # type: ignore[attr-defined]

        await asyncio.gather(*(run(i, rng.randrange(400), rng.randrange(4)) for i in range(count)))
        await nothing_held(engine)
        nothing_leaked(engine)
        repeated = 0
        for number, got in answers.items():
            request = requests[number]
            assert sorted(got) == list(range(request.n))
            if request.params.temperature == 0.0:
                want = reference("llama", list(request.prompt_ids), request.params.max_tokens)
                assert all(answer.ids == want for answer in got.values())
                continue
            if forms[number] >= 0:
                whole = [answer.text for answer in got.values() if answer.finish_reason == "stop"]
                assert all(fits(text, SCHEMAS[forms[number]]) for text in whole)
            if repeated < REPEATED:
                repeated += 1
                again = await collect(engine, request)
                assert [again[i].ids for i in sorted(again)] == [got[i].ids for i in sorted(got)]
                assert [again[i].text for i in sorted(again)] == [got[i].text for i in sorted(got)]
        await nothing_held(engine)
        nothing_leaked(engine)
        assert repeated == REPEATED
        assert sum(form >= 0 for form in forms) > count // 20

    with_engine("llama", test, kv_bytes=PER_TOKEN * 3000, max_batch=16, max_waiting=2000, dtype="float32")
