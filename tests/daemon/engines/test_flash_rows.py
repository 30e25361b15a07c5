"""Rows read where they lie, decode steps in graphs, steps begun ahead: all but the device's own kernels, on the CPU."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daemon.engines.base import Engine, GenerationRequest, SamplingParams
from daemon.engines.transformers import attention, build, cuda_graphs, flash_rows
from daemon.engines.transformers.arena import ArenaStore, Extents, slide
from daemon.engines.transformers.cuda_graphs import BUCKETS, bucket_of, buckets_up_to, fields_of, pad_inputs
from daemon.engines.transformers.flash_rows import Stretch, describe
from daemon.engines.transformers.kv_store import LayerSpec
from daemon.engines.transformers.rows import RowPool
from tests.daemon.engines.harness import ask, collect, with_engine
from tests.tiny_models import tiny_model


def test_bucket_is_the_smallest_that_holds_the_rows() -> None:
    for rows in range(1, 257):
        bucket = bucket_of(rows)
        assert bucket is not None
        assert bucket >= rows
        assert all(other < rows for other in BUCKETS if other < bucket)
    assert bucket_of(257) is None
    assert buckets_up_to(20) == (1, 2, 4, 8, 16, 24)
    assert buckets_up_to(999) == BUCKETS


def test_padding_points_at_the_scratch_place() -> None:
    ids, positions, places, starts, lengths = fields_of(pad_inputs([7, 8, 9], [4, 0, 2], [11, 40, 90], 4), 4)
    assert ids.tolist() == [7, 8, 9, 0]
    assert positions.tolist() == [4, 0, 2, 0]
    assert places.tolist() == [15, 40, 92, 0]
    assert starts.tolist() == [11, 40, 90, 0, 0]
    assert lengths.tolist() == [5, 1, 3, 1]


def test_describe_gives_each_new_token_its_place() -> None:
    batch = describe([Stretch(10, 4, 1), Stretch(100, 2, 3)])
    assert batch.targets.tolist() == [14, 102, 103, 104]
    assert batch.offsets.tolist() == [0, 1, 4]
    assert batch.starts.tolist()[:2] == [10, 100]
    assert batch.used.tolist() == [5, 5]
    assert (batch.most_new, batch.most_kept) == (3, 5)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=60))
def test_extents_never_overlap_and_lose_nothing(steps: list[tuple[bool, int]]) -> None:
    extents, held = Extents(200), []
    for take, length in steps:
        if take:
            start = extents.take(length)
            if start is not None:
                held.append((start, length))
            else:
                assert all(end - begin < length for begin, end in extents.free)
        elif held:
            extents.give(*held.pop(length % len(held)))
        pieces = sorted([*held, *((begin, end - begin) for begin, end in extents.free)])
        assert sum(size for _, size in pieces) == 200
        assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(pieces))


def test_slide_keeps_the_order_and_leaves_no_gap() -> None:
    assert slide([(50, 10), (0, 5), (20, 7)]) == [12, 0, 5]


def test_rows_keep_their_content_whatever_the_pool_does() -> None:
    rng = random.Random(3)
    spec = LayerSpec(1, 4, 4, torch.float32, torch.device("cpu"))
    pool = RowPool(1024, spec.bytes_per_token, 6000 * spec.bytes_per_token, max_cached=4, scattered=True)
    store = ArenaStore([spec], pool)
    live: list[tuple[Any, float]] = []

    def check() -> None:
        store.apply(pool.drain())
        for row, mark in live:
            at = store.start(row.size_class, row.slot)
            assert torch.equal(store.keys[0][at : at + row.length], torch.full((row.length, 1, 4), mark))

    for step in range(400):
        choice = rng.random()
        if choice < 0.5:
            row = pool.allocate([step], rng.choice([100, 200, 500, 900]))
            store.apply(pool.drain())
            if row is not None:
                row.length = rng.randrange(1, 100)
                at = store.start(row.size_class, row.slot)
                store.keys[0][at : at + row.length] = float(step)
                live.append((row, float(step)))
        elif choice < 0.7 and live:
            pool.ensure(rng.choice(live)[0], rng.choice([120, 300, 1000]))
        elif live:
            pool.release(live.pop(rng.randrange(len(live)))[0], keep=False)
        check()
    assert store.generation > 1


class _Rerun:
    def __init__(self, run: Callable[[], None]) -> None:
        self.replay = run


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Engines attend over rows in place and decode through graphs; gives the number of rows of each such step."""
    replayed: list[int] = []

    def varlen(q: Any, k: Any, v: Any, rows: Any, new: int, kept: int, scale: float) -> Any:
        assert kept >= int(rows.used.max())
        assert new >= int(rows.offsets.diff().max())
        return flash_rows.plain_varlen(q, k, v, rows, scale)

    def capture(run: Callable[[], None], pool: Any) -> _Rerun:
        run()

        def again() -> None:
            replayed.append(1)
            run()

        return _Rerun(again)

    monkeypatch.setattr(flash_rows, "varlen", varlen)
    monkeypatch.setattr(build, "flash_usable", lambda layers, kinds, heads: flash_fits_any_dtype(kinds))
    monkeypatch.setattr(cuda_graphs, "capture_cuda", capture)
    return replayed


def flash_fits_any_dtype(kinds: list[attention.AttentionKind]) -> bool:
    return all(kind.softcap is None and kind.sinks is None for kind in kinds)


def greedy(family: str, ids: list[int], tokens: int) -> list[int]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model(family))
    out = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(out[0, len(ids) :].tolist())


PROMPTS = [[5, 9, 77, 3], list(range(20, 90)), [400], list(range(100, 180)) * 3]


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3_text"])
def test_greedy_equals_generate(in_place: list[int], family: str) -> None:
    wanted = [greedy(family, prompt, 40) for prompt in PROMPTS]

    async def test(engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, prompt, max_tokens=40) for prompt in PROMPTS))
        assert [a.ids for a in answers] == wanted
        assert [a.finish_reason for a in answers] == ["length"] * len(PROMPTS)
        assert (await ask(engine, PROMPTS[1], max_tokens=40)).ids == wanted[1]

    with_engine(family, test)
    assert bool(in_place) == (family != "gemma3_text")


def test_a_seed_gives_the_same_text_alone_and_among_others_that_come_go_and_are_cancelled(in_place: list[int]) -> None:
    rng = random.Random(11)
    cases = [
        ([rng.randrange(3, 500) for _ in range(rng.randrange(1, 60))], rng.randrange(1, 70), rng.randrange(1 << 40))
        for _ in range(12)
    ]
    styles: list[dict[str, Any]] = [
        {},
        {"top_k": 9},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"presence_penalty": 0.5},
        {"logprobs": 2},
    ]

    async def test(engine: Engine) -> None:
        async def answer(i: int) -> list[int]:
            ids, tokens, seed = cases[i]
            style = styles[i % len(styles)]
            return (await ask(engine, ids, max_tokens=tokens, seed=seed, temperature=0.8, **style)).ids

        async def broken_off(i: int) -> None:
            request = GenerationRequest("x", cases[i][0], SamplingParams(max_tokens=60, temperature=0.0))
            stream = engine.generate(request)
            async for _ in stream:
                break
            await stream.aclose()  # type: ignore[attr-defined]

        alone = [await answer(i) for i in range(len(cases))]
        together = await asyncio.gather(*(answer(i) for i in range(len(cases))), *(broken_off(i) for i in range(4)))
        assert together[: len(cases)] == alone

    with_engine("llama", test, max_batch=5)


def test_stops_and_ends_are_seen_though_the_next_step_has_begun(in_place: list[int]) -> None:
    wanted = greedy("llama", PROMPTS[0], 30)

    async def test(engine: Engine) -> None:
        stop = wanted[7]
        answer = await ask(engine, PROMPTS[0], max_tokens=30, stop_token_ids=(stop,))
        assert answer.ids == wanted[: wanted.index(stop) + 1]
        assert answer.finish_reason == "stop"
        again = await collect(
            engine, GenerationRequest("r", PROMPTS[0], SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True))
        )
        assert again[0].ids == wanted

    with_engine("llama", test)


def test_a_row_left_with_a_step_under_way_is_a_prefix_of_what_was_computed(in_place: list[int]) -> None:
    wanted = greedy("llama", PROMPTS[1], 12)

    async def test(engine: Engine) -> None:
        for count in (1, 2, 5):
            stream = engine.generate(
                GenerationRequest("r", PROMPTS[1], SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True))
            )
            seen: list[int] = []
            async for delta in stream:
                seen += delta.token_ids
                if len(seen) >= count:
                    break
            await stream.aclose()  # type: ignore[attr-defined]
            # Its row is taken over, with another token where the cancelled one went on.
            other = [*PROMPTS[1], *wanted[: count + 1], 7]
            found, again = await asyncio.gather(
                ask(engine, other, max_tokens=12), ask(engine, PROMPTS[1], max_tokens=12)
            )
            assert again.ids == wanted
            assert found.ids == greedy("llama", other, 12)
            assert found.deltas[0].cached_tokens >= len(PROMPTS[1])

    with_engine("llama", test, max_batch=2)


def test_rows_outgrow_their_place_and_memory_is_short(in_place: list[int]) -> None:
    wanted = [greedy("llama", prompt, 200) for prompt in PROMPTS]

    async def test(engine: Engine) -> None:
        answers = await asyncio.gather(*(ask(engine, prompt, max_tokens=200) for prompt in PROMPTS))
        assert [a.ids for a in answers] == wanted

    # 700 tokens of three layers with two heads of 16, keys and values, in fp32.
    with_engine("llama", test, kv_bytes=700 * 3 * 2 * 16 * 2 * 4)


def test_without_room_for_more_graphs_larger_ones_serve_and_none_is_no_error(
    in_place: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = greedy("llama", PROMPTS[0], 20)
    capture = cuda_graphs.capture_cuda
    captured: list[int] = []

    def once(run: Callable[[], None], pool: Any) -> Any:
        if captured:
            raise RuntimeError("out of memory")
        captured.append(1)
        return capture(run, pool)

    def never(run: Callable[[], None], pool: Any) -> Any:
        raise RuntimeError("out of memory")

    async def test(engine: Engine) -> None:
        assert (await ask(engine, PROMPTS[0], max_tokens=20)).ids == wanted

    monkeypatch.setattr(cuda_graphs, "capture_cuda", once)
    with_engine("llama", test, max_batch=4)
    assert in_place
    in_place.clear()
    monkeypatch.setattr(cuda_graphs, "capture_cuda", never)
    with_engine("llama", test, max_batch=4)
    assert not in_place


def test_memory_of_graphs_that_a_larger_store_ended_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RowPool(1024, 16, 16 * 4096, scattered=True)
    store = ArenaStore([LayerSpec(1, 4, 4, torch.float32, torch.device("cpu"))], pool)
    graphs = cuda_graphs.DecodeGraphs(cast(Any, None), store, torch.device("cpu"), most_rows=2)
    left: list[int] = []
    monkeypatch.setattr(graphs, "_pinned", True)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(len(graphs._graphs)))
    graphs._keep_up()
    graphs._graphs[1] = cast(Any, object())
    graphs._keep_up()
    assert left == [0]
    store.generation += 1
    graphs._keep_up()
    assert left == [0, 0]


def test_fits_only_what_the_kernel_can_do() -> None:
    cuda = torch.device("cuda")
    plain = attention.AttentionKind(1.0)
    half = LayerSpec(2, 64, 64, torch.bfloat16, cuda)
    assert flash_rows.flash_fits([half], [plain])
    assert not flash_rows.flash_fits([LayerSpec(2, 64, 64, torch.float32, cuda)], [plain])
    assert not flash_rows.flash_fits([LayerSpec(2, 60, 60, torch.bfloat16, cuda)], [plain])
    assert not flash_rows.flash_fits([half], [attention.AttentionKind(1.0, softcap=5.0)])
    assert not flash_rows.flash_usable([LayerSpec(2, 64, 64, torch.bfloat16, torch.device("cpu"))], [plain], 4)


def test_input_is_one_array_of_32_bits() -> None:
    assert pad_inputs([], [], [], 8).dtype == np.int32
