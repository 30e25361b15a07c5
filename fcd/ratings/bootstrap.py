"""Bootstrap of Bradley-Terry: every round draws as many votes anew, and all rounds are solved together.

B. Efron, Bootstrap Methods, Annals of Statistics 7, 1979. Only the number of votes per pair and outcome matters, so a
round is one multinomial draw over those cells, as in LMArena's `compute_bootstrap_bt`. A round's strengths are near
those of all votes: steps with the inverse Hessian of all votes reach them in a few cheap iterations (the chord form of
Newton's method), and the few rounds that they do not reach get full Newton steps.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fcd.ratings.bradley_terry import PRIOR
from fcd.ratings.counts import PairCounts
from fcd.ratings.scale import Floats, Ints, sigmoid, to_points

_ROUNDS_AT_ONCE = 25
_CHORD_STEPS = 12
_NEWTON_STEPS = 60
_TOLERANCE = 1e-6
_LARGEST_STEP = 2.0
_LARGEST_THETA = 20.0


def bootstrap(
    counts: PairCounts,
    theta: Floats,
    *,
    rounds: int = 1000,
    seed: int = 0,
    prior: float = PRIOR,
    threads: int | None = None,
) -> Floats:
    """Ratings in points of every round, shape (rounds, n). `theta` is the fit of all votes.

    The result depends on the seed alone, not on the number of threads.
    """
    n = len(counts)
    if n < 2 or counts.total == 0:
        return np.tile(to_points(theta), (rounds, 1))
    cells = _Cells.of(counts)
    solver = _Solver(cells, theta, prior)
    sizes = [min(_ROUNDS_AT_ONCE, rounds - start) for start in range(0, rounds, _ROUNDS_AT_ONCE)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    with ThreadPoolExecutor(threads or min(os.cpu_count() or 1, 8)) as pool:
        parts = list(pool.map(solver.rounds, sizes, seeds))
    return to_points(np.concatenate(parts))


def quantile_interval(samples: Floats) -> tuple[Floats, Floats]:
    """The 2.5 % and 97.5 % quantiles of each column."""
    lower, upper = np.quantile(samples, [0.025, 0.975], axis=0)
    return lower, upper


@dataclass(frozen=True)
class _Cells:
    """Pairs a < b that have met, sorted by a, and their votes by outcome."""

    n: int
    a: Ints
    b: Ints
    outcomes: Floats
    """Votes for a, votes for b, ties: shape (3, pairs)."""

    @classmethod
    def of(cls, counts: PairCounts) -> _Cells:
        a, b = np.nonzero(np.triu(counts.games, 1))
        outcomes = np.stack([counts.wins[a, b], counts.wins[b, a], counts.ties[a, b]])
        return cls(len(counts), a, b, outcomes)

    def resample(self, rounds: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Score of side a and number of votes per pair, each of shape (rounds, pairs)."""
        flat = self.outcomes.ravel()
        drawn = rng.multinomial(round(flat.sum()), flat / flat.sum(), size=rounds)
        wins, losses, ties = drawn.reshape(rounds, 3, -1).transpose(1, 0, 2)
        return wins + 0.5 * ties, (wins + losses + ties).astype(np.float64)


class _Solver:
    def __init__(self, cells: _Cells, theta: Floats, prior: float) -> None:
        self._cells = cells
        self._theta = theta
        self._prior = prior
        self._by_a = _Sums(cells.a, cells.n)
        self._by_b = _Sums(cells.b, cells.n)
        games = cells.outcomes.sum(axis=0)
        self._inverse = np.linalg.inv(self._hessians(theta[None, :], games[None, :])[0])

    def rounds(self, size: int, seed: np.random.SeedSequence) -> Floats:
        """Strengths of `size` rounds, shape (size, n), each with mean 0."""
        scores, games = self._cells.resample(size, np.random.default_rng(seed))
        theta = np.tile(self._theta, (size, 1))
        open_rounds = self._chord(theta, scores, games)
        if len(open_rounds):
            theta[open_rounds] = self._newton(theta[open_rounds], scores[open_rounds], games[open_rounds])
        centred: Floats = theta - theta.mean(axis=1, keepdims=True)
        return centred

    def _chord(self, theta: Floats, scores: Floats, games: Floats) -> Ints:
        """Move `theta` in place; returns the rounds that are not there yet."""
        left = np.arange(len(theta))
        last = np.full(len(theta), np.inf)
        for _ in range(_CHORD_STEPS):
            moves = self._gradients(theta[left], scores[left], games[left]) @ self._inverse
            sizes = np.abs(moves).max(axis=1)
            going = sizes < 0.7 * last[left]
            theta[left[going]] += moves[going]
            last[left] = np.where(going, sizes, last[left])
            left = left[(sizes > _TOLERANCE) | ~going]
            if not len(left) or not going.any():
                break
        return left

    def _newton(self, theta: Floats, scores: Floats, games: Floats) -> Floats:
        theta = np.tile(self._theta, (len(theta), 1))
        left = np.arange(len(theta))
        for _ in range(_NEWTON_STEPS):
            gradients = self._gradients(theta[left], scores[left], games[left])
            moves = (np.linalg.inv(self._hessians(theta[left], games[left])) @ gradients[:, :, None])[:, :, 0]
            sizes = np.abs(moves).max(axis=1)
            moves *= np.minimum(1.0, _LARGEST_STEP / np.maximum(sizes, 1e-300))[:, None]
            theta[left] = np.clip(theta[left] + moves, -_LARGEST_THETA, _LARGEST_THETA)
            left = left[sizes > _TOLERANCE]
            if not len(left):
                break
        return theta

    def _gradients(self, theta: Floats, scores: Floats, games: Floats) -> Floats:
        p = sigmoid(theta[:, self._cells.a] - theta[:, self._cells.b])
        residual = scores - games * p
        gradients = self._by_a(residual) - self._by_b(residual)
        if self._prior:
            gradients += self._prior * (0.5 - sigmoid(theta))
        return gradients

    def _hessians(self, theta: Floats, games: Floats) -> Floats:
        """Negated Hessians, shape (rounds, n, n), of full rank."""
        cells = self._cells
        p = sigmoid(theta[:, cells.a] - theta[:, cells.b])
        weights = games * p * (1.0 - p)
        made = np.zeros((len(theta), cells.n, cells.n))
        made[:, cells.a, cells.b] = -weights
        made[:, cells.b, cells.a] = -weights
        q = sigmoid(theta)
        diagonal = self._by_a(weights) + self._by_b(weights) + self._prior * q * (1.0 - q)
        rows = np.arange(cells.n)
        made[:, rows, rows] = diagonal
        level = np.maximum(diagonal.mean(axis=1), 1e-12)
        made[:, rows, rows] += 1e-9 * level[:, None]
        if not self._prior:
            made += (level / cells.n)[:, None, None]
        return made


class _Sums:
    """Adds up columns by model: (rounds, pairs) -> (rounds, n)."""

    def __init__(self, owner: Ints, n: int) -> None:
        order = np.argsort(owner, kind="stable")
        self._order: Ints | None = None if (order == np.arange(len(owner))).all() else order
        self._owners, self._starts = np.unique(owner[order], return_index=True)
        self._n = n

    def __call__(self, values: Floats) -> Floats:
        sums = np.zeros((len(values), self._n))
        sorted_values = values if self._order is None else values[:, self._order]
        sums[:, self._owners] = np.add.reduceat(sorted_values, self._starts, axis=1)
        return sums
