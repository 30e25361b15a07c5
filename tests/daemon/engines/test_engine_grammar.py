"""A model with random weights under a grammar: its answers are valid all the same, and its neighbours do not notice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from daemon.engines.base import Engine, GenerationRequest, GrammarSpec, SamplingParams, SchemaSource
from daemon.engines.transformers.scheduler import Scheduler
from daemon.engines.transformers.sequence import Sequence
from fcd.errors import ApiError
from tests.daemon.engines.harness import Answer, ask, collect, with_engine
from tests.tiny_models import VOCABULARY

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "é"]}, "maxItems": 3},
        "ok": {"type": "boolean"},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "ok"],
    "additionalProperties": False,
}
SPEC = GrammarSpec({"type": "schema", "index": 0}, (SchemaSource(SCHEMA, "p", strict=True),))
WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 2.0, "seed": 1},
    {"temperature": 1.0, "top_k": 5, "seed": 2},
    {"temperature": 1.0, "top_p": 0.5, "seed": 3},
    {"temperature": 1.0, "min_p": 0.2, "seed": 4},
    {"temperature": 0.0, "repetition_penalty": 1.3, "presence_penalty": 1.0},
    {"temperature": 0.0, "logit_bias": {40: 100.0}},
    {"temperature": 1.0, "logprobs": 2, "seed": 5},
    {"temperature": 1.0, "ignore_eos": True, "seed": 6},
]


def check(answer: Answer) -> None:
    assert answer.finish_reason == "stop", answer
    jsonschema.validate(json.loads(answer.text), SCHEMA)


@pytest.mark.parametrize("family", ["llama", "gemma2", "t5"])
def test_every_way_of_choosing_gives_valid_json(family: str) -> None:
    async def test(engine: Engine) -> None:
        grammar = await engine.compile_grammar(SPEC)
        free = asyncio.ensure_future(ask(engine, [3, 4, 5], max_tokens=60))
        requests = [
            GenerationRequest("r", [5, 6, 7, 8 + place], SamplingParams(max_tokens=700, **way), n=2, grammar=grammar)
            for place, way in enumerate(WAYS if family == "llama" else WAYS[:3])
        ]
        for answers in await asyncio.gather(*(collect(engine, request) for request in requests)):
            assert len(answers) == 2
            for answer in answers.values():
                check(answer)
        alone = await ask(engine, [3, 4, 5], max_tokens=60)
        assert (await free).ids == alone.ids

    with_engine(family, test)


def test_choices_of_one_request_keep_their_own_places_in_the_grammar() -> None:
    async def test(engine: Engine) -> None:
        grammar = await engine.compile_grammar(SPEC)
        params = SamplingParams(max_tokens=700, temperature=1.5, seed=9)
        answers = await collect(engine, GenerationRequest("r", [9, 8, 7], params, n=6, grammar=grammar))
        for answer in answers.values():
            check(answer)
        assert len({answer.text for answer in answers.values()}) > 1

    with_engine("llama", test)


@pytest.mark.slow
def test_a_sequence_that_gives_its_row_up_keeps_its_place_in_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = 0
    preempt = Scheduler._preempt

    def counted(scheduler: Scheduler, sequence: Sequence) -> None:
        nonlocal given_up
        given_up += sequence.generated > 0
        preempt(scheduler, sequence)

    monkeypatch.setattr(Scheduler, "_preempt", counted)

    async def test(engine: Engine) -> None:
        schema = {"type": "array", "items": {"enum": [True, False, None]}, "minItems": 40, "maxItems": 45}
        spec = GrammarSpec({"type": "schema", "index": 0}, (SchemaSource(schema, "p"),))
        grammar = await engine.compile_grammar(spec)
        params = SamplingParams(max_tokens=600, temperature=1.0, top_k=3, seed=3)
        requests = [GenerationRequest("r", [5, 6, i + 3], params, grammar=grammar) for i in range(4)]
        for answers in await asyncio.gather(*(collect(engine, request) for request in requests)):
            if answers[0].finish_reason == "stop":
                jsonschema.validate(json.loads(answers[0].text), schema)
            assert answers[0].finish_reason in ("stop", "length")

    # Room for less than two whole rows: the youngest give theirs up.
    with_engine("llama", test, kv_bytes=600_000)
    assert given_up > 0


def test_a_leaver_and_a_limit() -> None:
    async def test(engine: Engine) -> None:
        grammar = await engine.compile_grammar(SPEC)
        short = await collect(engine, GenerationRequest("r", [5], SamplingParams(max_tokens=2), grammar=grammar))
        assert short[0].finish_reason == "length"
        async for _ in engine.generate(GenerationRequest("r", [5], SamplingParams(max_tokens=500), grammar=grammar)):
            break

    with_engine("llama", test)


class DeadEnd:
    """A grammar that allows token 7 twice and then nothing."""

    def start(self) -> DeadEnd.Mask:
        return DeadEnd.Mask()

    class Mask:
        vocab_size = VOCABULARY
        finished = False
        failure = ""
        taken = 0

        def fill(self, bits: Any, row: int) -> bool:
            if self.taken < 2:
                bits[row, 0] = 1 << 7
            return True

        def accept(self, token_id: int) -> bool:
            self.taken += 1
            self.failure = "" if self.taken < 3 else "it is a dead end"
            return not self.failure


@pytest.mark.parametrize("way", [{"temperature": 0.0}, {"temperature": 1.0, "logprobs": 3}, {"top_p": 0.5}])
def test_a_dead_end_gives_one_completion_up_and_says_why(way: dict[str, Any]) -> None:
    async def test(engine: Engine) -> None:
        free = asyncio.ensure_future(ask(engine, [3, 4, 5], max_tokens=20))
        request = GenerationRequest("r", [5, 6], SamplingParams(max_tokens=50, **way), grammar=DeadEnd())
        answer = (await collect(engine, request))[0]
        assert (answer.finish_reason, answer.stop_reason) == ("abort", "it is a dead end")
        assert answer.ids[:2] == [7, 7]
        assert (await free).finish_reason == "length"

    with_engine("llama", test)


def test_a_bad_schema_is_refused_and_the_engine_goes_on() -> None:
    async def test(engine: Engine) -> None:
        bad = {"type": "object", "properties": {"next": {"$ref": "#"}}}
        for _ in range(2):
            with pytest.raises(ApiError, match="recursive") as caught:
                await engine.compile_grammar(
                    GrammarSpec({"type": "schema", "index": 0}, (SchemaSource(bad, "tools[0].function.parameters"),))
                )
            assert caught.value.param == "tools[0].function.parameters"
        assert (await ask(engine, [3, 4], max_tokens=5)).ids

    with_engine("llama", test)


def test_choices_of_a_model_that_keeps_its_own_state() -> None:
    async def test(engine: Engine) -> None:
        grammar = await engine.compile_grammar(SPEC)
        params = SamplingParams(max_tokens=700, temperature=1.0, seed=9)
        answers = await collect(engine, GenerationRequest("r", [9, 8, 7], params, n=2, grammar=grammar))
        assert len(answers) == 2
        for answer in answers.values():
            check(answer)

    with_engine("mamba", test)
