"""The maths of the board: known answers, properties, and simulations with known strengths."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcd.ratings.board import LiveBoard, make_board
from fcd.ratings.bootstrap import bootstrap, quantile_interval
from fcd.ratings.bradley_terry import PRIOR, bread, covariance, fit, sandwich_interval
from fcd.ratings.counts import PairCounts
from fcd.ratings.elo import as_arrays, elo, elo_bootstrap
from fcd.ratings.outliers import holm, judge_voter
from fcd.ratings.scale import POINTS, win_probability
from fcd.ratings.style import fit_style, markdown_counts, style_differences
from fcd.ratings.tables import head_to_head, ranks, records, wilson, win_rates

GOLDEN = "AB a, AB a, BA a, AC a, CA tie, BC b, CB b, BC bothbad, AC a, CB a"
SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5, "bothbad": 0.5}


def golden() -> list[tuple[str, str, float]]:
    rows = [each.split() for each in GOLDEN.split(", ")]
    return [(pair[0], pair[1], SCORES[outcome]) for pair, outcome in rows]


def counted(votes: list[tuple[str, str, float]]) -> PairCounts:
    counts = PairCounts()
    for a, b, score in votes:
        counts.add(a, b, score)
    return counts


def simulate(theta: np.ndarray, votes: int, seed: int, ties: float = 0.2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random pairs; a tie with probability `ties` whoever plays, else the winner by strength."""
    rng = np.random.default_rng(seed)
    n = len(theta)
    a = rng.integers(0, n, votes)
    b = (a + rng.integers(1, n, votes)) % n
    wins = rng.random(votes) < 1 / (1 + np.exp(theta[b] - theta[a]))
    return a, b, np.where(rng.random(votes) < ties, 0.5, wins * 1.0)


def names(n: int) -> list[str]:
    return [f"m{index}" for index in range(n)]


def test_the_golden_vector_of_online_elo() -> None:
    models, a, b, score = as_arrays(golden())
    found = dict(zip(models, elo(len(models), a, b, score), strict=True))
    assert found == pytest.approx({"A": 1005.8523, "B": 996.0794, "C": 998.0682}, abs=0.01)


def test_the_golden_vector_of_bradley_terry_without_a_prior() -> None:
    counts = counted(golden())
    fitted = fit(counts, prior=0.0)
    assert fitted.converged
    found = dict(zip(counts.models, fitted.ratings, strict=True))
    assert found == pytest.approx({"A": 1127.51, "B": 919.25, "C": 953.24}, abs=0.01)


def test_the_prior_moves_ratings_towards_the_middle_and_hardly() -> None:
    counts = counted(golden())
    bare, held = fit(counts, prior=0.0).ratings, fit(counts).ratings
    assert np.abs(bare - held).max() < 15
    assert np.abs(held - 1000).max() < np.abs(bare - 1000).max()


def test_an_undefeated_model_is_finite_with_the_prior_and_told_apart_without() -> None:
    counts = counted([("A", "B", 1.0)] * 3)
    held = fit(counts)
    assert held.converged
    assert 1000 < held.ratings[0] < 2000
    assert not fit(counts, prior=0.0).converged


def test_groups_that_never_met_do_not_break_the_fit() -> None:
    counts = counted([("A", "B", 1.0), ("B", "A", 1.0), ("C", "D", 1.0), ("D", "C", 0.0), ("C", "D", 0.0)])
    for prior in (0.0, PRIOR):
        assert np.isfinite(fit(counts, prior=prior).ratings).all()
        assert np.isfinite(np.concatenate(sandwich_interval(counts, fit(counts).theta))).all()


def test_a_board_of_nothing_and_of_one() -> None:
    assert list(make_board(PairCounts()).ratings) == []
    assert list(make_board(PairCounts(["only"])).ratings) == [1000.0]


votes_strategy = st.lists(
    st.tuples(st.sampled_from("ABCDE"), st.sampled_from("ABCDE"), st.sampled_from([0.0, 0.5, 1.0])).filter(
        lambda vote: vote[0] != vote[1]
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(votes_strategy)
def test_ratings_do_not_depend_on_order_or_sides_and_have_mean_1000(votes: list[tuple[str, str, float]]) -> None:
    counts = counted(votes)
    turned = counted([(b, a, 1.0 - score) for a, b, score in reversed(votes)])
    found = dict(zip(counts.models, fit(counts).ratings, strict=True))
    again = dict(zip(turned.models, fit(turned).ratings, strict=True))
    assert found == pytest.approx(again, abs=1e-6)
    assert np.mean(list(found.values())) == pytest.approx(1000)


@settings(max_examples=60, deadline=None)
@given(votes_strategy)
def test_the_fit_is_where_the_expected_wins_are_the_wins(votes: list[tuple[str, str, float]]) -> None:
    """The likelihood equations: sum of scores = sum of expected scores, but for the prior's share."""
    counts = counted(votes)
    fitted = fit(counts)
    expected = (counts.games * win_probability(fitted.theta)).sum(axis=1)
    assert np.abs(counts.scores.sum(axis=1) - expected).max() < 0.5


def test_arrays_and_single_votes_count_alike() -> None:
    theta = np.linspace(-1, 1, 6)
    a, b, score = simulate(theta, 500, 3)
    by_arrays = PairCounts.from_arrays(names(6), a, b, score)
    one_by_one = PairCounts(names(6))
    for x, y, s in zip(a, b, score, strict=True):
        one_by_one.add(f"m{x}", f"m{y}", float(s))
    assert (by_arrays.wins == one_by_one.wins).all()
    assert (by_arrays.ties == one_by_one.ties).all()
    assert by_arrays.total == 500
    one_by_one.add("m0", "m1", 1.0, -1.0)
    assert one_by_one.total == 499


def test_growing_keeps_what_was_counted() -> None:
    counts = PairCounts()
    for index in range(40):
        counts.add("first", f"m{index}", 1.0)
    assert counts.wins[0].sum() == 40
    assert len(counts) == 41


def test_the_bootstrap_agrees_with_the_sandwich_and_with_itself() -> None:
    theta = np.linspace(-1.5, 1.5, 12)
    counts = PairCounts.from_arrays(names(12), *simulate(theta, 8000, 1))
    fitted = fit(counts)
    lower, upper = sandwich_interval(counts, fitted.theta)
    samples = bootstrap(counts, fitted.theta, rounds=2000, seed=5)
    low, high = quantile_interval(samples)
    assert (high - low) / (upper - lower) == pytest.approx(np.ones(12), abs=0.1)
    assert samples.mean(axis=0) == pytest.approx(fitted.ratings, abs=2.0)
    assert (samples == bootstrap(counts, fitted.theta, rounds=2000, seed=5, threads=1)).all()


def test_every_round_of_the_bootstrap_is_a_maximum() -> None:
    """Rounds with few votes take the slow way; both ways must end where the slopes are zero."""
    for votes in (30, 300, 3000):
        counts = PairCounts.from_arrays(names(8), *simulate(np.linspace(-1, 1, 8), votes, 2))
        fitted = fit(counts)
        from fcd.ratings.bootstrap import _Cells, _Solver

        solver = _Solver(_Cells.of(counts), fitted.theta, PRIOR)
        seed = np.random.SeedSequence(4)
        thetas = solver.rounds(50, seed)
        scores, games = _Cells.of(counts).resample(50, np.random.default_rng(np.random.SeedSequence(4)))
        for theta, score, game in zip(thetas, scores, games, strict=True):
            one = PairCounts(names(8))
            cells = _Cells.of(counts)
            for a, b, s, g in zip(cells.a, cells.b, score, game, strict=True):
                one.add(f"m{a}", f"m{b}", 1.0, s)
                one.add(f"m{a}", f"m{b}", 0.0, g - s)
            assert theta == pytest.approx(fit(one).theta, abs=2e-4)


@pytest.mark.slow
def test_95_percent_intervals_hold_the_truth_95_times_of_100() -> None:
    """200 simulations of 10 models and 2,000 votes."""
    theta = np.linspace(-1.2, 1.2, 10)
    truth = 1000 + POINTS * theta
    sandwich, resampled, total = 0, 0, 0
    for seed in range(200):
        counts = PairCounts.from_arrays(names(10), *simulate(theta, 2000, seed, ties=0.0))
        fitted = fit(counts)
        lower, upper = sandwich_interval(counts, fitted.theta)
        low, high = quantile_interval(bootstrap(counts, fitted.theta, rounds=300, seed=seed))
        sandwich += int(((lower <= truth) & (truth <= upper)).sum())
        resampled += int(((low <= truth) & (truth <= high)).sum())
        total += 10
    assert 0.93 <= sandwich / total <= 0.97
    assert 0.93 <= resampled / total <= 0.97


def test_few_votes_have_wide_intervals() -> None:
    counts = counted([("A", "B", 1.0)] * 3 + [("C", "B", 1.0), ("B", "C", 1.0)] * 100)
    fitted = fit(counts)
    lower, upper = sandwich_interval(counts, fitted.theta)
    width = dict(zip(counts.models, upper - lower, strict=True))
    assert width["A"] > 500 > width["C"]


def test_a_vote_updates_the_board_within_50_ms_at_100_000_votes() -> None:
    theta = np.linspace(-2, 2, 50)
    live = LiveBoard(PairCounts.from_arrays(names(50), *simulate(theta, 100_000, 9)))
    live.board()
    times = []
    for index in range(20):
        began = time.perf_counter()
        live.add(f"m{index}", f"m{index + 1}", 1.0)
        live.board()
        times.append(time.perf_counter() - began)
    assert sorted(times)[len(times) // 2] < 0.05


def test_the_live_board_is_the_board() -> None:
    votes = golden() * 5
    live = LiveBoard()
    for vote in votes:
        live.add(*vote)
        live.board()
    assert live.board().ratings == pytest.approx(make_board(counted(votes)).ratings, abs=1e-6)


def test_ranks_count_who_is_surely_better() -> None:
    lower, upper = np.array([110.0, 95.0, 60.0]), np.array([120.0, 115.0, 90.0])
    assert ranks(lower, upper).tolist() == [1, 1, 3]


def test_records_and_rates() -> None:
    counts = counted(golden())
    wins, losses, ties = records(counts)
    by_name = dict(zip(counts.models, zip(wins, losses, ties, strict=True), strict=True))
    assert by_name["A"] == (4.0, 1.0, 1.0)
    assert win_rates(counts)[counts.index("A")] == pytest.approx(4.5 / 6)
    rates = head_to_head(counts)
    assert rates[counts.index("A"), counts.index("B")] == pytest.approx(2 / 3)
    assert np.isnan(rates[0, 0])
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0)


def test_anchoring_shifts_everything() -> None:
    board = make_board(counted(golden()), anchor=("B", 1200.0))
    free = make_board(counted(golden()))
    b = board.counts.models.index("B")
    assert board.ratings[b] == pytest.approx(1200)
    assert board.upper - free.upper == pytest.approx(np.full(3, 1200 - free.ratings[b]))


def test_elo_of_resampled_votes_surrounds_elo() -> None:
    a, b, score = simulate(np.linspace(-1, 1, 4), 1500, 6)
    rounds = elo_bootstrap(4, a, b, score, rounds=200, seed=1)
    assert rounds.shape == (200, 4)
    low, high = quantile_interval(rounds)
    assert ((low < elo(4, a, b, score)) & (elo(4, a, b, score) < high)).all()


def test_style_control_takes_length_away() -> None:
    """Equal models, one of which writes more, and voters who like length: without style, they are equal again."""
    rng = np.random.default_rng(8)
    votes = 6000
    a = rng.integers(0, 3, votes)
    b = (a + rng.integers(1, 3, votes)) % 3
    lengths = np.array([300.0, 100.0, 100.0])
    style_a = np.stack([lengths[a] * rng.lognormal(0, 0.7, votes), *rng.poisson(1.0, (3, votes))], axis=1).astype(float)
    style_b = np.stack([lengths[b] * rng.lognormal(0, 0.7, votes), *rng.poisson(1.0, (3, votes))], axis=1).astype(float)
    features = style_differences(style_a, style_b)
    score = (rng.random(votes) < 1 / (1 + np.exp(-0.8 * features[:, 0]))) * 1.0
    plain = make_board(PairCounts.from_arrays(names(3), a, b, score)).ratings
    controlled = fit_style(3, a, b, score, features)
    assert plain[0] - plain[1] > 100
    assert abs(controlled.ratings[0] - controlled.ratings[1]) < 40
    assert controlled.points_lower[0] < 0.8 * POINTS < controlled.points_upper[0]
    assert controlled.points_lower[0] > 0
    assert abs(controlled.points[1]) < 15


def test_style_control_without_style_is_bradley_terry() -> None:
    a, b, score = simulate(np.linspace(-1, 1, 5), 5000, 2)
    controlled = fit_style(5, a, b, score, np.zeros((5000, 4)))
    assert controlled.ratings == pytest.approx(make_board(PairCounts.from_arrays(names(5), a, b, score)).ratings, abs=1)


def test_markdown_is_counted_outside_code() -> None:
    text = "# One\n## Two\n- a\n* b\n1. c\n**bold** and __bold__\n```\n# not\n- not\n**not**\n```\n"
    assert markdown_counts(text) == (2, 3, 2)


def test_a_voter_who_votes_backwards_is_found_and_others_are_not() -> None:
    rng = np.random.default_rng(3)
    likely = np.full(60, 0.75)
    honest = np.where(rng.random(60) < 0.75, likely, 1 - likely)
    tests = [judge_voter(honest), judge_voter(1 - likely), judge_voter(likely)]
    assert holm([test.p_value for test in tests]) == [False, True, False]
    assert judge_voter(np.array([])).p_value == 1.0


def test_few_honest_voters_are_called_outliers() -> None:
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(400):
        p = rng.uniform(0.5, 0.95, 30)
        called += judge_voter(np.where(rng.random(30) < p, p, 1 - p)).p_value < 0.05
    assert called / 400 < 0.08


def test_the_information_is_the_covariance_of_a_true_model() -> None:
    counts = PairCounts.from_arrays(names(6), *simulate(np.linspace(-1, 1, 6), 40_000, 4, ties=0.0))
    theta = fit(counts).theta
    ratio = np.diag(covariance(counts, theta)) / np.diag(bread(counts, theta))
    assert ratio == pytest.approx(np.ones(6), abs=0.05)
