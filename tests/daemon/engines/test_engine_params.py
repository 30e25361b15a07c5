"""What a request may ask for, through the whole engine."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from daemon.engines.base import Engine, GenerationRequest, SamplingParams
from fcd.errors import ApiError
from tests.daemon.engines.harness import Answer, ask, collect, nothing_held, until, with_engine
from tests.daemon.engines.test_engine_greedy import reference, reference_model
from tests.tiny_models import VOCABULARY

PROMPT = [20, 30, 40, 50, 60, 70, 80]


def test_a_seed_gives_the_same_text_alone_and_in_company() -> None:
    rng = random.Random(3)

    async def test(engine: Engine) -> None:
        wanted = {"temperature": 0.9, "seed": 11, "max_tokens": 20, "top_p": 0.95}
        alone = await ask(engine, PROMPT, **wanted)
        noise = [
            ask(engine, [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 90))], temperature=1.0, top_k=k)
            for k in (0, 5, 50, 0)
        ]
        together = await asyncio.gather(*noise, ask(engine, PROMPT, **wanted))
        assert together[-1].ids == alone.ids
        other = await ask(engine, PROMPT, **{**wanted, "seed": 12})
        assert other.ids != alone.ids
        free = [await ask(engine, PROMPT, temperature=1.0, max_tokens=20) for _ in range(2)]
        assert free[0].ids != free[1].ids

    with_engine("llama", test)


def test_stop_strings_across_deltas() -> None:
    async def test(engine: Engine) -> None:
        full = await ask(engine, PROMPT, max_tokens=40)
        stop = full.text[12:17]
        at = full.text.index(stop)
        cut = await ask(engine, PROMPT, max_tokens=40, stop=("nowhere to be found", stop))
        assert cut.text == full.text[:at]
        assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
        kept = await ask(engine, PROMPT, max_tokens=40, stop=(stop,), include_stop=True)
        assert kept.text == full.text[: at + len(stop)]
        held = await ask(engine, PROMPT, max_tokens=40, stop=(full.text + "never",))
        assert held.text == full.text
        assert held.finish_reason == "length"
        late = await ask(engine, PROMPT, max_tokens=40, stop=(stop,), min_tokens=39)
        assert len(late.ids) >= 39

    with_engine("llama", test)


def test_stop_ids_eos_and_min_tokens() -> None:
    async def test(engine: Engine) -> None:
        full = await ask(engine, PROMPT, max_tokens=30)
        target = full.ids[10]
        at = full.ids.index(target)
        cut = await ask(engine, PROMPT, max_tokens=30, stop_token_ids=(target,))
        assert cut.ids == full.ids[: at + 1]
        assert (cut.finish_reason, cut.stop_reason) == ("stop", target)
        assert cut.text == engine.tokenizer.decode(full.ids[:at])
        eos = engine.info.eos_token_ids[0]
        ended = await ask(engine, PROMPT, max_tokens=30, ignore_eos=False, logit_bias={eos: 100.0})
        assert (ended.ids, ended.text, ended.finish_reason, ended.stop_reason) == ([eos], "", "stop", None)
        longer = await ask(engine, PROMPT, max_tokens=30, ignore_eos=False, logit_bias={eos: 100.0}, min_tokens=5)
        assert longer.ids[-1] == eos
        assert len(longer.ids) == 6
        assert eos not in longer.ids[:-1]

    with_engine("llama", test)


def test_logprobs_are_the_models_own() -> None:
    import torch

    async def test(engine: Engine) -> None:
        answer = await ask(engine, PROMPT, max_tokens=12, logprobs=3, temperature=0.5, seed=4, frequency_penalty=0.5)
        assert [entry.token_id for entry in answer.logprobs] == answer.ids
        everything = torch.tensor([[*PROMPT, *answer.ids]])
        table = reference_model("llama")(everything).logits[0].detach().log_softmax(-1)
        for i, entry in enumerate(answer.logprobs):
            row = table[len(PROMPT) - 1 + i]
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
            assert [t[0] for t in entry.top] == row.topk(3).indices.tolist()
            assert entry.top[0][2] == pytest.approx(float(row.max()), abs=1e-3)

    with_engine("llama", test)


def test_skipped_tokens_take_no_room() -> None:
    async def test(engine: Engine) -> None:
        special = int(engine.tokenizer.all_special_ids[0])
        for skip in (True, False):
            bias = {special: 100.0}
            answer = await ask(engine, PROMPT, max_tokens=3, logprobs=0, logit_bias=bias, skip_special_tokens=skip)
            assert answer.ids == [special] * 3
            assert [entry.begin for entry in answer.logprobs] == [at * len(answer.text) // 3 for at in range(3)]
            assert bool(answer.text) is not skip
        answer = await ask(engine, [special, *PROMPT], max_tokens=1, prompt_logprobs=0)
        entries = answer.deltas[0].prompt_logprobs
        assert entries is not None
        decoded = [len(engine.tokenizer.decode([special, *PROMPT][:at])) for at in range(len(PROMPT) + 1)]
        assert [entry.begin for entry in entries] == decoded

    with_engine("llama", test)


@pytest.mark.parametrize("length", [1, 7, 600])
def test_prompt_logprobs(length: int) -> None:
    import torch

    rng = random.Random(length)
    prompt = [rng.randrange(3, VOCABULARY) for _ in range(length)]

    async def test(engine: Engine) -> None:
        await ask(engine, prompt, max_tokens=2)  # A cached prefix must not swallow them.
        for count in (0, 1):
            answer = await ask(engine, prompt, max_tokens=count, prompt_logprobs=2)
            entries = answer.deltas[0].prompt_logprobs
            assert entries is not None
            assert [e.token_id for e in entries] == prompt
            assert entries[0].logprob is None
            assert len(answer.ids) == count
            table = reference_model("llama")(torch.tensor([prompt])).logits[0].detach().log_softmax(-1)
            for i, entry in enumerate(entries[1:]):
                assert entry.logprob == pytest.approx(float(table[i, prompt[i + 1]]), abs=1e-3)
                assert len(entry.top) == 2

    with_engine("llama", test)


def test_penalties_and_bias_change_the_choice() -> None:
    async def test(engine: Engine) -> None:
        answer = await ask(engine, PROMPT, max_tokens=40, frequency_penalty=2.0, presence_penalty=2.0)
        plain = await ask(engine, PROMPT, max_tokens=40)
        assert len(set(answer.ids)) >= len(set(plain.ids))
        forced = await ask(engine, PROMPT, max_tokens=5, logit_bias={77: 100.0})
        assert forced.ids == [77] * 5
        barred = await ask(engine, PROMPT, max_tokens=5, logit_bias={plain.ids[0]: -100.0})
        assert barred.ids[0] != plain.ids[0]

    with_engine("llama", test)


def test_repetition_penalty_equals_generate() -> None:
    import torch

    async def test(engine: Engine) -> None:
        answer = await ask(engine, PROMPT, max_tokens=30, repetition_penalty=1.7)
        output = reference_model("llama").generate(
            torch.tensor([PROMPT]),
            max_new_tokens=30,
            do_sample=False,
            repetition_penalty=1.7,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert answer.ids == output[0].tolist()[len(PROMPT) :]

    with_engine("llama", test)


def test_n_and_best_of() -> None:
    rng = random.Random(9)
    prompt = [rng.randrange(3, VOCABULARY) for _ in range(120)]

    async def test(engine: Engine) -> None:
        params = SamplingParams(max_tokens=12, temperature=1.0, seed=5, ignore_eos=True, logprobs=0)
        four = await collect(engine, GenerationRequest("a", prompt, params, n=4, best_of=4))
        assert sorted(four) == [0, 1, 2, 3]
        assert len({tuple(a.ids) for a in four.values()}) == 4
        single = await collect(engine, GenerationRequest("b", prompt, params))
        assert single[0].ids == four[0].ids
        best = await collect(engine, GenerationRequest("c", prompt, params, n=2, best_of=4))
        assert sorted(best) == [0, 1]

        def score(answer: Answer) -> float:
            return math.fsum(e.logprob for e in answer.logprobs) / len(answer.ids)

        ranked = sorted(four.values(), key=score, reverse=True)
        assert [best[0].ids, best[1].ids] == [ranked[0].ids, ranked[1].ids]

    with_engine("llama", test)


def test_leaving_frees_everything_and_harms_nobody() -> None:
    rng = random.Random(2)

    async def test(engine: Engine) -> None:
        async def leave(prompt: list[int], after: int) -> None:
            params = SamplingParams(max_tokens=500, temperature=0.0, ignore_eos=True)
            stream = engine.generate(GenerationRequest("x", prompt, params, n=rng.choice([1, 3])))
            seen = 0
            async for _ in stream:
                seen += 1
                if seen > after:
                    break
            await stream.aclose()  # type: ignore[attr-defined]

        prompts = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 150))] for _ in range(12)]
        leavers = [leave(p, rng.randint(0, 10)) for p in prompts[:8]]
        stayers = [ask(engine, p, max_tokens=30) for p in prompts[8:]]
        task = asyncio.create_task(ask(engine, prompts[0], max_tokens=900))
        results = await asyncio.gather(*stayers, *leavers)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for prompt, answer in zip(prompts[8:], results[:4], strict=True):
            assert answer is not None
            assert answer.ids == reference("llama", prompt, 30)
        await nothing_held(engine)

    with_engine("llama", test)


def test_what_cannot_be_served_is_refused() -> None:
    async def test(engine: Engine) -> None:
        cases = [([], "invalid_request"), ([3] * 1025, "context_length_exceeded"), ([99999], "invalid_request")]
        for ids, code in cases:
            with pytest.raises(ApiError) as refused:
                await ask(engine, ids)
            assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, "prompt")
        full = await ask(engine, [3] * 1000, max_tokens=100)
        assert len(full.ids) == 24
        assert full.finish_reason == "length"

    with_engine("llama", test)


def test_a_full_queue_is_429() -> None:
    async def test(engine: Engine) -> None:
        tasks = [ask(engine, [5 + i], max_tokens=50) for i in range(8)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [r for r in results if isinstance(r, ApiError)]
        assert refused
        assert all(r.status == 429 for r in refused)
        assert sum(isinstance(r, Answer) for r in results) >= 3

    with_engine("llama", test, max_batch=1, max_waiting=2)


def test_a_crash_fails_what_runs_and_says_so() -> None:
    from daemon.engines.base import LoadOptions
    from daemon.engines.transformers import load_engine
    from tests.tiny_models import tiny_model

    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(tiny_model("llama"))), lambda *progress: None)
        running = asyncio.create_task(ask(engine, PROMPT, max_tokens=900))
        await until(lambda: engine.stats().running > 0)

        def broken(*args: object) -> None:
            raise RuntimeError("the forward broke")

        engine._core._runner.forward = broken  # type: ignore[attr-defined]
        with pytest.raises(ApiError) as failed:
            await running
        assert failed.value.status == 500
        assert "the forward broke" in failed.value.message
        with pytest.raises(ApiError) as after:
            await ask(engine, PROMPT)
        assert after.value.status == 503
        await engine.close()

    asyncio.run(main())


def test_closing_ends_running_requests() -> None:
    from daemon.engines.base import LoadOptions
    from daemon.engines.transformers import load_engine
    from tests.tiny_models import tiny_model

    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(tiny_model("llama"))), lambda *progress: None)
        running = asyncio.create_task(ask(engine, PROMPT, max_tokens=1000))
        await until(lambda: engine.stats().running > 0)
        await engine.close()
        with pytest.raises(ApiError):
            await running

    asyncio.run(main())


def test_embeddings_are_normalised_means() -> None:
    import torch

    async def test(engine: Engine) -> None:
        inputs = [PROMPT, [5], [9, 8, 7] * 30]
        vectors = await engine.embed(inputs)
        for ids, vector in zip(inputs, vectors, strict=True):
            hidden = reference_model("llama").model(torch.tensor([ids])).last_hidden_state[0].detach().mean(0)
            want = torch.nn.functional.normalize(hidden, dim=-1)
            assert torch.tensor(vector) == pytest.approx(want.tolist(), abs=1e-4)
        with pytest.raises(ApiError):
            await engine.embed([[]])

    with_engine("llama", test)
