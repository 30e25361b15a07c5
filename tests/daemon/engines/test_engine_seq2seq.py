"""Encoder-decoder models: answers in changing company equal generate's, and the same parameters are honoured."""

from __future__ import annotations

import asyncio
import random
from functools import lru_cache
from typing import Any

import pytest

from daemon.engines.base import Engine, GenerationRequest, SamplingParams
from fcd.errors import ApiError
from tests.daemon.engines.harness import ask, collect, with_engine
from tests.tiny_models import VOCABULARY, tiny_model


@lru_cache(maxsize=2)
def reference_model(family: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(tiny_model(family))


def reference(family: str, ids: list[int], count: int) -> list[int]:
    import torch

    output = reference_model(family).generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        num_beams=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0].tolist()[1:]


def random_prompt(rng: random.Random, longest: int = 120) -> list[int]:
    return [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, longest))]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_joining_and_leaving_changes_nothing(family: str) -> None:
    rng = random.Random(family)
    prompts = [random_prompt(rng) for _ in range(12)]
    counts = [rng.randint(1, 25) for _ in prompts]

    async def test(engine: Engine) -> None:
        async def later(ids: list[int], count: int, after: Any) -> Any:
            await after.wait()
            return await ask(engine, ids, max_tokens=count)

        started = asyncio.Event()
        second = [later(i, n, started) for i, n in zip(prompts[6:], counts[6:], strict=True)]
        tasks = [asyncio.create_task(c) for c in second]

        async def first(ids: list[int], count: int) -> Any:
            stream = engine.generate(
                GenerationRequest("r", ids, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True))
            )
            got: list[int] = []
            async for delta in stream:
                got += delta.token_ids
                if len(got) >= 3:
                    started.set()
            started.set()
            return got

        early = await asyncio.gather(*(first(i, n) for i, n in zip(prompts[:6], counts[:6], strict=True)))
        late = [answer.ids for answer in await asyncio.gather(*tasks)]
        for ids, count, got in zip(prompts, counts, [*early, *late], strict=True):
            assert got == reference(family, ids, count)

    with_engine(family, test)


def test_parameters_are_honoured() -> None:
    rng = random.Random(1)
    prompt = random_prompt(rng)

    async def test(engine: Engine) -> None:
        assert engine.info.is_encoder_decoder
        seeded = {"temperature": 1.0, "seed": 3, "max_tokens": 12, "logprobs": 2}
        alone = await ask(engine, prompt, **seeded)
        others = [ask(engine, random_prompt(rng), temperature=1.0, max_tokens=9) for _ in range(4)]
        together = await asyncio.gather(*others, ask(engine, prompt, **seeded))
        assert together[-1].ids == alone.ids
        assert [e.token_id for e in alone.logprobs] == alone.ids
        three = await collect(
            engine, GenerationRequest("r", prompt, SamplingParams(max_tokens=6, seed=3, ignore_eos=True), n=3)
        )
        assert sorted(three) == [0, 1, 2]
        forced = await ask(engine, prompt, max_tokens=4, logit_bias={44: 100.0})
        assert forced.ids == [44] * 4
        with pytest.raises(ApiError) as refused:
            await ask(engine, prompt, prompt_logprobs=1)
        assert refused.value.param == "prompt_logprobs"
        vectors = await engine.embed([prompt, prompt[:1]])
        assert sum(x * x for x in vectors[0]) == pytest.approx(1.0, abs=1e-4)

    with_engine("t5", test)


def test_little_memory_puts_off_and_does_not_fail() -> None:
    rng = random.Random(8)
    prompts = [random_prompt(rng) for _ in range(6)]

    async def test(engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=200) for ids in prompts))
        for ids, answer in zip(prompts[:2], answers[:2], strict=True):
            assert answer.ids == reference("t5", ids, 200)
        assert all(len(a.ids) == 200 for a in answers)

    with_engine("t5", test, kv_bytes=2 * 2 * 64 * 4 * 2 * 600)
