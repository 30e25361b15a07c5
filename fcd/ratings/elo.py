"""Online Elo: one small step per vote, in the order of the votes.

A. Elo, The Rating of Chessplayers, 1978; K, scale and start as in FastChat's `compute_elo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import numpy as np

from fcd.ratings.scale import POINTS, START, Floats, Ints

K = 4.0
_CHUNK = 4096


def elo(n: int, a: Ints, b: Ints, score: Floats, *, k: float = K) -> Floats:
    """Ratings in points, shape (n,), after votes a against b with side a's scores, all of shape (votes,)."""
    ratings = [START] * n
    for one, other, got in zip(a.tolist(), b.tolist(), score.tolist(), strict=True):
        step = k * (got - 1.0 / (1.0 + exp((ratings[other] - ratings[one]) / POINTS)))
        ratings[one] += step
        ratings[other] -= step
    return np.array(ratings)


def elo_bootstrap(n: int, a: Ints, b: Ints, score: Floats, *, rounds: int, seed: int = 0, k: float = K) -> Floats:
    """Ratings of resampled sequences of votes, shape (rounds, n): all rounds advance together, vote by vote."""
    rng = np.random.default_rng(seed)
    ratings = np.zeros((rounds, n))
    rows = np.arange(rounds)
    votes = len(a)
    for start in range(0, votes, _CHUNK):
        picks = rng.integers(0, votes, (min(_CHUNK, votes - start), rounds))
        for ones, others, gots in zip(a[picks], b[picks], score[picks], strict=True):
            expected = 1.0 / (1.0 + np.exp((ratings[rows, others] - ratings[rows, ones]) / POINTS))
            step = k * (gots - expected)
            ratings[rows, ones] += step
            ratings[rows, others] -= step
    return ratings + START


def as_arrays(votes: Sequence[tuple[str, str, float]]) -> tuple[list[str], Ints, Ints, Floats]:
    """Models in order of appearance, and the votes (model a, model b, side a's score) as index and score arrays."""
    index: dict[str, int] = {}
    cells = [(index.setdefault(a, len(index)), index.setdefault(b, len(index))) for a, b, _ in votes]
    pairs = np.array(cells, dtype=np.int64).reshape(-1, 2)
    return list(index), pairs[:, 0], pairs[:, 1], np.array([vote[2] for vote in votes], dtype=np.float64)
