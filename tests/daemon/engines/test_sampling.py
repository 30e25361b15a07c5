"""The sampling maths on its own: distributions against the definition, and independence from the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engines.transformers.sampling import (
    RowParams,
    SamplingBatch,
    TokenCounts,
    choice_seed,
    draw,
    logprobs_of,
    uniforms,
)

CPU = torch.device("cpu")


def choose(logits: torch.Tensor, rows: list[RowParams], positions: list[int], **more: object) -> list[int]:
    batch = SamplingBatch(rows, logits.shape[-1], CPU)
    return batch.choose(logits.clone(), positions, **more).tolist()  # type: ignore[arg-type]


def expected(logits: torch.Tensor, row: RowParams) -> torch.Tensor:
    """The distribution by the book, with sorting over everything, in double precision."""
    scores = logits.double() / row.temperature
    values, order = scores.sort(descending=True)
    if row.top_k > 0:
        values[row.top_k :] = -torch.inf
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    outside = before >= row.top_p
    outside[0] = False
    probabilities[outside] = 0.0
    if row.min_p > 0:
        probabilities[probabilities < probabilities.max() * row.min_p] = 0.0
    full = torch.zeros_like(scores)
    full[order] = probabilities / probabilities.sum()
    return full


CASES = [
    RowParams(temperature=1.0),
    RowParams(temperature=0.7),
    RowParams(temperature=1.3, top_k=5),
    RowParams(temperature=1.0, top_p=0.8),
    RowParams(temperature=1.0, top_p=0.97),
    RowParams(temperature=0.9, min_p=0.05),
    RowParams(temperature=1.1, top_k=700, top_p=0.9),
    RowParams(temperature=1.0, top_k=20, top_p=0.7, min_p=0.1),
]


@pytest.mark.parametrize("row", CASES, ids=str)
def test_draws_follow_the_distribution(row: RowParams) -> None:
    torch.manual_seed(1)
    count = 20_000
    logits = torch.randn(800) * 2
    want = expected(logits, row)
    batch = SamplingBatch([row] * 500, 800, CPU)
    seen = torch.zeros(800)
    for position in range(0, count, 500):
        batch.seeds = np.arange(position, position + 500, dtype=np.uint64)
        tokens = batch.choose(logits.expand(500, -1).clone(), [position] * 500)
        seen += torch.bincount(tokens, minlength=800)
    assert (seen[want == 0] == 0).all()
    # Total variation distance of an empirical distribution is about sqrt(support / count) / 2.5.
    bound = 0.6 * (float((want > 0).sum()) / count) ** 0.5 + 0.01
    assert float((seen / count - want).abs().sum()) / 2 < bound


@given(st.lists(st.sampled_from([*CASES, RowParams(temperature=0.0)]), min_size=1, max_size=8), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_row_draws_the_same_alone_and_in_any_company(rows: list[RowParams], seed: int) -> None:
    torch.manual_seed(seed % 1000)
    logits = torch.randn(len(rows), 800) * 2
    positions = [seed % 97 + i for i in range(len(rows))]
    together = choose(logits, rows, positions)
    alone = [choose(logits[i : i + 1], [row], positions[i : i + 1])[0] for i, row in enumerate(rows)]
    assert together == alone


def test_greedy_is_the_argmax_whatever_else_is_set() -> None:
    logits = torch.randn(3, 300)
    rows = [RowParams(temperature=0.0, top_p=0.1), RowParams(temperature=0.0), RowParams(temperature=1.0)]
    assert choose(logits, rows, [0, 0, 0])[:2] == logits.argmax(-1)[:2].tolist()


def test_penalties_follow_their_formulas() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    row = RowParams(temperature=0.0, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    batch = SamplingBatch([row], 4, CPU)
    work = logits.clone()
    batch.choose(work, [3], [TokenCounts.of(prompt=[0, 1], completion=[1, 1, 2])])
    # Token 0: prompt only. Token 1: twice generated. Token 2: once. Token 3: never seen.
    want = [2.0 / 2, -1.0 * 2 - 2 * 0.5 - 0.25, 0.5 / 2 - 0.5 - 0.25, 0.0]
    assert work[0].tolist() == pytest.approx(want)


def test_penalised_rows_do_not_touch_others() -> None:
    logits = torch.randn(3, 50)
    rows = [RowParams(temperature=0.0), RowParams(temperature=0.0, frequency_penalty=2.0), RowParams(temperature=0.0)]
    batch = SamplingBatch(rows, 50, CPU)
    work = logits.clone()
    batch.choose(work, [0, 0, 0], [None, TokenCounts.of([], [7]), None])
    assert torch.equal(work[0], logits[0])
    assert torch.equal(work[2], logits[2])
    assert work[1, 7] == pytest.approx(float(logits[1, 7]) - 2.0)


def test_bias_and_bans() -> None:
    logits = torch.zeros(2, 10)
    rows = [RowParams(temperature=0.0, logit_bias={4: 5.0, 6: 9.0}), RowParams(temperature=0.0)]
    assert choose(logits, rows, [0, 0]) == [6, 0]
    assert choose(logits, rows, [0, 0], banned=[(0, 6), (1, 0)]) == [4, 1]


@given(st.integers(1, 1500), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_draw_finds_where_the_running_sum_passes(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(4, n, generator=generator)
    weights[weights < 0.5] = 0.0
    weights[:, seed % n] = 1.0
    uniform = torch.rand(4, generator=generator, dtype=torch.float64)
    got = draw(weights.clone(), uniform)
    sums = weights.double().cumsum(-1)
    for row in range(4):
        target = float(uniform[row] * sums[row, -1])
        index = int(got[row])
        assert weights[row, index] > 0
        assert float(sums[row, index]) >= target - 1e-6
        assert float(sums[row, index] - weights[row, index]) <= target + 1e-6


def test_draw_at_the_ends() -> None:
    weights = torch.zeros(2, 600)
    weights[:, 3] = 1.0
    weights[:, 597] = 1.0
    assert draw(weights, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)).tolist() == [3, 597]


def test_uniforms_are_uniform_and_fixed() -> None:
    values = uniforms(np.full(20_000, 42, np.uint64), np.arange(20_000, dtype=np.uint64))
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert abs(values.mean() - 0.5) < 0.01
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 2000).max() < 200
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03
    again = uniforms(np.array([42], np.uint64), np.array([7], np.uint64))
    assert again[0] == values[7]


def test_choices_have_their_own_seeds() -> None:
    assert choice_seed(5, 0) == 5
    assert len({choice_seed(5, i) for i in range(100)}) == 100


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = torch.randn(2, 30)
    chosen, ids, values = logprobs_of(logits, torch.tensor([3, 4]), 5)
    table = logits.log_softmax(-1)
    assert chosen == pytest.approx([float(table[0, 3]), float(table[1, 4])])
    assert ids[0] == table[0].topk(5).indices.tolist()
    assert values[1] == pytest.approx(table[1].topk(5).values.tolist())


@pytest.mark.parametrize("row", [RowParams(), RowParams(top_k=3), RowParams(top_p=0.5), RowParams(min_p=0.2)])
def test_logits_that_are_no_numbers_still_give_a_token_that_exists(row: RowParams) -> None:
    for vocab in (50, 1000):
        token = choose(torch.full((1, vocab), torch.nan), [row], [5])[0]
        assert 0 <= token < vocab
