"""Which two models meet next. Pure: randomness is passed in."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from fcd.ratings.bradley_terry import bread, fit
from fcd.ratings.counts import PairCounts
from fcd.ratings.scale import POINTS, Floats, win_probability
from fcd.wire.arena import Pairing

NEWCOMER_VOTES = 10
"""A model with fewer votes is a newcomer: pairs with one come first."""

WIDEST_FIRST = 6


def choose_pair(
    candidates: Sequence[str],
    method: Pairing,
    counts: PairCounts,
    rng: random.Random,
    *,
    weights: Mapping[str, float] | None = None,
    newcomer_votes: int = NEWCOMER_VOTES,
) -> tuple[str, str]:
    """Side a and side b, in random order. `candidates` are at least two different models that can answer.

    Raises:
        ValueError: fewer than two, or fewer than two with a weight above 0.
    """
    chances = pair_weights(candidates, method, counts, weights=weights, newcomer_votes=newcomer_votes)
    rows, columns = np.nonzero(np.triu(chances, 1))
    if not len(rows):
        raise ValueError("fewer than two models can be paired")
    picked = rng.choices(range(len(rows)), chances[rows, columns].tolist())[0]
    pair = [candidates[rows[picked]], candidates[columns[picked]]]
    rng.shuffle(pair)
    return pair[0], pair[1]


def pair_weights(
    candidates: Sequence[str],
    method: Pairing,
    counts: PairCounts,
    *,
    weights: Mapping[str, float] | None = None,
    newcomer_votes: int = NEWCOMER_VOTES,
) -> Floats:
    """How likely each pair is to be drawn, relative to the others: symmetric, 0 on the diagonal, shape (n, n)."""
    n = len(candidates)
    games = games_between(candidates, counts)
    if method == "weighted":
        each = np.array([max(0.0, (weights or {}).get(model, 1.0)) for model in candidates])
        chances = np.outer(each, each)
    elif method == "fewest_votes":
        chances = _only_best(-games)
    elif method == "most_informative":
        chances = _only_best(information_gain(candidates, counts))
    else:
        chances = np.ones((n, n))
    np.fill_diagonal(chances, 0.0)
    return _newcomers_first(chances, games, method, newcomer_votes, candidates, counts)


def information_gain(candidates: Sequence[str], counts: PairCounts) -> Floats:
    """How far one more vote between two models shrinks the intervals, wide ones before all, shape (n, n).

    What is to fall is the sum of the rating variances to the power `WIDEST_FIRST` + 1: with 0 that is greedy A-optimal
    design, and the higher it is, the more the widest interval counts. One vote adds w e e^T to the information, with
    w = p (1 - p) and e = e_i - e_j, so by Sherman and Morrison's formula the variance of model k falls by
    w (S e)_k^2 / (1 + w e^T S e), S being the inverse information. In units of a mean variance, in points squared.
    """
    rows, known = _with_candidates(candidates, counts)
    fitted = fit(known)
    spread = bread(known, fitted.theta)
    p = win_probability(fitted.theta)
    weight = (p * (1.0 - p))[np.ix_(rows, rows)]
    variances = np.diag(spread)
    importance = np.zeros(len(known))
    importance[rows] = (variances[rows] / variances[rows].mean()) ** WIDEST_FIRST
    squared = (spread * importance[None, :]) @ spread
    gain = weight * _differences(squared)[np.ix_(rows, rows)]
    gain /= 1.0 + weight * _differences(spread)[np.ix_(rows, rows)]
    np.fill_diagonal(gain, 0.0)
    result: Floats = gain * POINTS**2
    return result


def games_between(candidates: Sequence[str], counts: PairCounts) -> Floats:
    rows, known = _with_candidates(candidates, counts)
    return known.games[np.ix_(rows, rows)]


def _with_candidates(candidates: Sequence[str], counts: PairCounts) -> tuple[list[int], PairCounts]:
    known = counts
    if any(model not in counts.models for model in candidates):
        known = counts.copy()
        for model in candidates:
            known.index(model)
    return [known.index(model) for model in candidates], known


def _differences(matrix: Floats) -> Floats:
    """(e_i - e_j)^T M (e_i - e_j) for every pair."""
    diagonal = np.diag(matrix)
    result: Floats = diagonal[:, None] + diagonal[None, :] - 2.0 * matrix
    return result


def _only_best(value: Floats) -> Floats:
    """1 for the pairs with the highest value, 0 for the others."""
    best = np.array(value, dtype=np.float64)
    np.fill_diagonal(best, -np.inf)
    top = best.max()
    chances: Floats = (best >= top - 1e-9 * abs(top)).astype(np.float64)
    return chances


def _newcomers_first(
    chances: Floats, games: Floats, method: Pairing, most: int, candidates: Sequence[str], counts: PairCounts
) -> Floats:
    """Only pairs with the newcomer that has the fewest votes, where there is one."""
    _, known = _with_candidates(candidates, counts)
    played = known.games.sum(axis=1)[[known.index(model) for model in candidates]]
    allowed = chances.sum(axis=1) > 0 if method == "weighted" else np.ones(len(candidates), dtype=bool)
    if not (allowed & (played < most)).any():
        return chances
    fewest = played[allowed].min()
    new = allowed & (played == fewest)
    pairs = (new[:, None] | new[None, :]) & ~np.eye(len(candidates), dtype=bool)
    if method == "weighted":
        drawn: Floats = chances * pairs
        return drawn
    wanted = {"uniform": np.zeros_like(games), "fewest_votes": -games}.get(method)
    value = information_gain(candidates, counts) if wanted is None else wanted
    result: Floats = _only_best(np.where(pairs, value, -np.inf)) * pairs
    return result
