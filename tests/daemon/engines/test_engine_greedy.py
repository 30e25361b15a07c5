"""Batched greedy answers against model.generate, one at a time."""

from __future__ import annotations

import asyncio
import random
from functools import lru_cache
from typing import Any

import pytest

from daemon.engines.base import Engine
from tests.daemon.engines.harness import ask, with_engine
from tests.tiny_models import VOCABULARY, tiny_model

PACKED = ("llama", "qwen2", "qwen3", "mistral", "mixtral", "gemma2", "gemma3_text", "phi3", "gpt2", "gpt_oss")


@lru_cache(maxsize=2)
def reference_model(family: str) -> Any:
    from transformers import AutoModelForCausalLM

    # transformers up to 5.17 would take SDPA for Gemma 2 and leave out the cap of its scores.
    own = "eager" if family == "gemma2" else None
    return AutoModelForCausalLM.from_pretrained(tiny_model(family), attn_implementation=own)


def reference(family: str, ids: list[int], count: int) -> list[int]:
    """Greedy ids from transformers' own generate."""
    import torch

    output = reference_model(family).generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return output[0].tolist()[len(ids) :]


def random_prompt(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, VOCABULARY) for _ in range(length)]


@pytest.mark.parametrize("family", PACKED)
def test_batched_greedy_equals_generate(family: str) -> None:
    rng = random.Random(family)
    prompts = [random_prompt(rng, rng.randint(1, 200)) for _ in range(10)]
    prompts.append(random_prompt(rng, 700))  # more than one chunk
    counts = [rng.randint(1, 24) for _ in prompts]

    async def test(engine: Engine) -> None:
        tasks = [ask(engine, ids, max_tokens=n) for ids, n in zip(prompts, counts, strict=True)]
        answers = await asyncio.gather(*tasks)
        for ids, count, answer in zip(prompts, counts, answers, strict=True):
            assert answer.ids == reference(family, ids, count)
            assert answer.text == engine.tokenizer.decode(answer.ids, skip_special_tokens=True)
            assert answer.finish_reason == "length"

    with_engine(family, test)


def test_short_memory_preempts_and_still_answers_right() -> None:
    """Eight answers of 120 tokens want more KV than there is: some must be put off, none may fail or change."""
    rng = random.Random(5)
    prompts = [random_prompt(rng, rng.randint(20, 120)) for _ in range(8)]

    async def test(engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=120) for ids in prompts))
        for ids, answer in zip(prompts, answers, strict=True):
            assert answer.ids == reference("llama", ids, 120)

    per_token = 3 * 2 * 16 * 2 * 4
    with_engine("llama", test, kv_bytes=per_token * 800)


def test_prefix_is_reused_between_turns_and_between_requests() -> None:
    rng = random.Random(6)
    system = random_prompt(rng, 300)

    async def test(engine: Engine) -> None:
        first = await ask(engine, [*system, 7, 8], max_tokens=20)
        assert first.deltas[0].cached_tokens == 0
        turn = [*system, 7, 8, *first.ids, 9, 10, 11]
        second = await ask(engine, turn, max_tokens=20)
        assert second.deltas[0].cached_tokens >= len(system) + 2 + 19
        assert second.ids == reference("llama", turn, 20)
        others = [[*system, 20 + i] for i in range(4)]
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=8) for ids in others))
        for ids, answer in zip(others, answers, strict=True):
            assert answer.deltas[0].cached_tokens >= len(system)
            assert answer.ids == reference("llama", ids, 8)

    with_engine("llama", test)


def test_requests_that_arrive_together_share_one_prefill() -> None:
    rng = random.Random(7)
    system = random_prompt(rng, 600)

    async def test(engine: Engine) -> None:
        prompts = [[*system, 20 + i] for i in range(6)]
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=4) for ids in prompts))
        # One that arrives when more than half is computed takes what is there instead of waiting for the rest.
        assert sum(a.deltas[0].cached_tokens >= len(system) // 2 for a in answers) == 5
        for ids, answer in zip(prompts, answers, strict=True):
            assert answer.ids == reference("llama", ids, 4)

    with_engine("llama", test)


@pytest.mark.parametrize("family", ["mamba", "falcon"])
def test_what_cannot_be_packed_still_answers_right(family: str) -> None:
    rng = random.Random(family)
    prompts = [random_prompt(rng, rng.randint(1, 60)) for _ in range(4)]

    async def test(engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=10) for ids in prompts))
        for ids, answer in zip(prompts, answers, strict=True):
            assert answer.ids == reference(family, ids, 10)

    with_engine(family, test)
