"""The scheduler alone: no model, rows only."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engines.base import GenerationRequest, SamplingParams
from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.scheduler import Scheduler
from daemon.engines.transformers.sequence import RequestState, Sequence
from daemon.engines.transformers.stops import StopStrings
from fcd.errors import ApiError


class NoText:
    def feed(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def make(prompt: list[int], count: int, n: int = 1) -> list[Sequence]:
    params = SamplingParams(max_tokens=count)
    state = RequestState(GenerationRequest("r", prompt, params, n=n), 1, 0.0)
    for index in range(n):
        leader = state.sequences[0] if index else None
        size = len(prompt)
        state.sequences.append(
            Sequence(state, index, list(prompt), size, size + count, 0, NoText(), StopStrings(()), frozenset())
        )
        state.sequences[-1].leader = leader
    return state.sequences


def scheduler(tokens: int = 4000, **options: Any) -> Scheduler:
    pool = RowPool(1000, 1, tokens)
    return Scheduler(pool, **{"max_running": 8, "max_waiting": 100, "chunk": 64, **options})


def run_step(s: Scheduler, finished: list[Sequence]) -> int:
    """What the engine does with a plan, without a model. Gives the number of tokens computed."""
    plan = s.plan()
    s.pool.drain()
    for work in (*plan.decode, *plan.prefill):
        sequence = work.sequence
        assert sequence.row is not None
        assert work.start == sequence.row.length
        sequence.row.length += work.count
        assert work.last == (sequence.row.length == len(sequence.ids))
        if work.last:
            sequence.decoding = True
            sequence.ids.append(1)
            if len(sequence.ids) >= sequence.max_length:
                sequence.finish_reason = "length"
                s.remove(sequence)
                finished.append(sequence)
    return sum(w.count for w in (*plan.decode, *plan.prefill))


@given(st.integers(0, 10_000), st.integers(300, 4000), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_everything_ends_and_nothing_is_left(seed: int, tokens: int, running: int) -> None:
    rng = random.Random(seed)
    s = scheduler(tokens, max_running=running, max_waiting=1000)
    limit = s.pool.max_tokens
    waiting = []
    for _ in range(rng.randint(1, 15)):
        length = rng.randint(1, limit - 1)
        prompt = [rng.randint(0, 3)] * (length // 2) + [rng.randint(0, 9)] * (length - length // 2)
        waiting += make(prompt, rng.randint(1, limit - length), n=rng.choice([1, 1, 3]))
    finished: list[Sequence] = []
    s.add(waiting)
    for _ in range(20_000):
        if s.idle():
            break
        assert run_step(s, finished) > 0 or s.idle()
        assert len(s.running) <= running
        assert s.pool.reserved <= s.pool.budget
    assert Counter(map(id, finished)) == Counter(map(id, waiting))
    assert all(len(x.ids) == x.max_length for x in finished)
    assert s.pool.used_bytes() == 0


def test_prefill_is_chunked_beside_decode() -> None:
    s = scheduler()
    first = make([1] * 10, 50)
    s.add(first)
    run_step(s, [])
    s.add(make([2] * 300, 5))
    plan = s.plan()
    assert [w.sequence for w in plan.decode] == first
    assert [(w.start, w.count, w.last) for w in plan.prefill] == [(0, 64, False)]


def test_prompts_are_whole_where_they_must_be() -> None:
    s = scheduler(chunk=0)
    s.add(make([1] * 10, 50))
    run_step(s, [])
    s.chunk_beside = 16
    s.add(make([2] * 300, 5))
    assert [(w.start, w.count, w.last) for w in s.plan().prefill] == [(0, 300, True)]


def test_first_come_first_served() -> None:
    s = scheduler(max_running=2)
    requests = [make([n] * 5, 3)[0] for n in range(6)]
    s.add(requests)
    finished: list[Sequence] = []
    while not s.idle():
        run_step(s, finished)
    assert finished == requests


def test_choices_wait_for_the_first_and_start_from_its_prefix() -> None:
    s = scheduler()
    choices = make(list(range(100)), 4, n=3)
    s.add(choices)
    plan = s.plan()
    assert [w.sequence for w in plan.prefill] == choices[:1]
    computed = 0
    finished: list[Sequence] = []
    while not s.idle():
        computed += run_step(s, finished)
    # One prefill of 100, one token again for each other choice, and three decode steps each.
    assert computed == 100 + 2 + 3 * 3


def test_a_full_queue_refuses() -> None:
    s = scheduler(max_running=1, max_waiting=2)
    s.add(make([1], 5) + make([2], 5) + make([3], 5))
    with pytest.raises(ApiError) as refused:
        s.add(make([4], 5))
    assert refused.value.status == 429
    assert refused.value.retry_after


def test_the_youngest_gives_way() -> None:
    s = scheduler(tokens=300, max_running=4)
    old, young = make([1] * 100, 150)[0], make([2] * 100, 20)[0]
    s.add([old, young])
    finished: list[Sequence] = []
    while old.finish_reason is None:
        run_step(s, finished)
        assert old.row is not None or old.finish_reason
    while not s.idle():
        run_step(s, finished)
    assert finished[-1].finish_reason == "length"
