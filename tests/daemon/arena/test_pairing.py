"""Which models meet: the rules, and what the informative one saves."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from daemon.arena.pairing import choose_pair, information_gain, pair_weights
from fcd.ratings.bradley_terry import fit, sandwich_interval
from fcd.ratings.counts import PairCounts
from fcd.wire.arena import Pairing

MODELS = ["a", "b", "c", "d"]


def met(*pairs: tuple[str, str, int]) -> PairCounts:
    counts = PairCounts(MODELS)
    for one, other, times in pairs:
        counts.add(one, other, 1.0, times / 2)
        counts.add(one, other, 0.0, times / 2)
    return counts


ALL_OFTEN = met(*[(one, other, 20) for one in MODELS for other in MODELS if one < other])


def draw(method: Pairing, counts: PairCounts, times: int = 2000, **more: object) -> Counter[tuple[str, str]]:
    rng = random.Random(1)
    return Counter(choose_pair(MODELS, method, counts, rng, **more) for _ in range(times))  # type: ignore[arg-type]


def test_uniform_draws_every_pair_and_side_alike() -> None:
    drawn = draw("uniform", ALL_OFTEN)
    assert len(drawn) == 12
    assert max(drawn.values()) < 2 * min(drawn.values())


def test_weights_choose_and_zero_leaves_out() -> None:
    drawn = draw("weighted", ALL_OFTEN, weights={"a": 3.0, "d": 0.0})
    assert not any("d" in pair for pair in drawn)
    with_a = sum(count for pair, count in drawn.items() if "a" in pair)
    assert with_a / 2000 == pytest.approx(6 / 7, abs=0.05)


def test_fewest_votes_evens_out() -> None:
    counts = met(
        *[(one, other, 20) for one in MODELS for other in MODELS if one < other and (one, other) != ("b", "d")]
    )
    counts.add("b", "d", 1.0, 12)
    assert {frozenset(pair) for pair in draw("fewest_votes", counts, 50)} == {frozenset("bd")}


@pytest.mark.parametrize("method", ["uniform", "weighted", "fewest_votes", "most_informative"])
def test_newcomers_come_first(method: Pairing) -> None:
    counts = met(("a", "b", 40), ("b", "c", 40), ("a", "c", 40))
    assert all("d" in pair for pair in draw(method, counts, 100))


def test_models_nobody_has_seen_can_be_paired() -> None:
    one, other = choose_pair(["new", "newer"], "most_informative", PairCounts(), random.Random(0))
    assert {one, other} == {"new", "newer"}


def test_one_model_is_no_pair() -> None:
    with pytest.raises(ValueError, match="fewer than two"):
        choose_pair(["a"], "uniform", PairCounts(), random.Random(0))


def test_the_gain_is_what_the_next_vote_would_bring() -> None:
    """The formula against adding half a win and half a loss for real."""
    from daemon.arena import pairing
    from fcd.ratings.bradley_terry import bread
    from fcd.ratings.scale import POINTS, win_probability

    counts = ALL_OFTEN.copy()
    counts.add("a", "b", 1.0, 7)
    theta = fit(counts).theta
    before = np.diag(bread(counts, theta))
    gain = information_gain(MODELS, counts)
    importance = (before / before.mean()) ** pairing.WIDEST_FIRST
    for one, other in ((0, 1), (1, 3)):
        more = counts.copy()
        p = win_probability(theta)[one, other]
        more.add(MODELS[one], MODELS[other], 1.0, p)
        more.add(MODELS[one], MODELS[other], 0.0, 1 - p)
        fall = (importance * (before - np.diag(bread(more, theta)))).sum() * POINTS**2
        assert gain[one, other] == pytest.approx(fall, rel=0.02)
    assert (np.diag(pair_weights(MODELS, "uniform", counts)) == 0).all()


def votes_needed(method: Pairing, seed: int, *, models: int = 12, within: float = 90.0) -> int:
    """Votes until every model's 95 % interval is at most ± `within` points."""
    strengths = np.random.default_rng(seed).normal(0.0, 1.0, models)
    rng, chance = random.Random(seed), np.random.default_rng(1000 + seed)
    names = [f"m{index}" for index in range(models)]
    counts = PairCounts(names)
    for vote in range(1, 20_000):
        one, other = choose_pair(names, method, counts, rng)
        edge = strengths[int(one[1:])] - strengths[int(other[1:])]
        counts.add(one, other, float(chance.random() < 1 / (1 + np.exp(-edge))))
        if vote % 20 == 0:
            lower, upper = sandwich_interval(counts, fit(counts).theta)
            if (upper - lower).max() / 2 <= within:
                return vote
    raise AssertionError("never narrow enough")


@pytest.mark.slow
def test_informative_pairs_need_at_most_70_percent_of_the_votes() -> None:
    seeds = range(8)
    uniform = sum(votes_needed("uniform", seed) for seed in seeds)
    informative = sum(votes_needed("most_informative", seed) for seed in seeds)
    assert informative <= 0.7 * uniform, f"{informative} of {uniform}"
