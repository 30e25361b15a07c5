"""Bradley-Terry strengths by Newton's method over pair counts, and their covariance.

R. A. Bradley, M. E. Terry, Rank Analysis of Incomplete Block Designs, Biometrika 39, 1952; ties as half a win each.
The likelihood is concave, so Newton with step halving finds its maximum (D. R. Hunter, MM Algorithms for Generalized
Bradley-Terry Models, Annals of Statistics 32, 2004, on when it exists). The covariance is the sandwich
H^-1 V H^-1 (P. J. Huber 1967; H. White 1982), as LMArena uses it, which holds although ties make the model wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcd.ratings.counts import PairCounts
from fcd.ratings.scale import POINTS, Z_95, Floats, sigmoid, to_points

PRIOR = 0.5
"""Votes that every model is given, as ties against one of average strength: keeps the undefeated finite."""

_LARGEST_THETA = 30.0
_LARGEST_STEP = 3.0
_MOST_STEPS = 100
_TOLERANCE = 1e-9
_FEW_VOTES = 30


@dataclass(frozen=True)
class Fit:
    """Strengths `theta` (natural logarithms, mean 0), shape (n,).

    `converged` is False where the maximum lies at infinity: without a prior, models that only won or only lost, or
    groups that never met.
    """

    theta: Floats
    steps: int
    converged: bool

    @property
    def ratings(self) -> Floats:
        return to_points(self.theta)


def fit(counts: PairCounts, *, prior: float = PRIOR, start: Floats | None = None) -> Fit:
    """The maximum of the likelihood, with `prior` ties against an average model for each.

    `start` (of an earlier fit; shorter when models are new) makes it one or two steps.
    """
    n = len(counts)
    theta = np.zeros(n)
    if start is not None:
        theta[: len(start)] = start[:n]
    if n < 2:
        return Fit(theta * 0.0, 0, True)
    scores, games = counts.scores, counts.games
    value = _value(theta, scores, prior)
    for step in range(1, _MOST_STEPS + 1):
        gradient, hessian = _slopes(theta, scores, games, prior)
        move = np.linalg.inv(_full_rank(hessian, prior)) @ gradient
        move *= min(1.0, _LARGEST_STEP / max(float(np.abs(move).max()), 1e-300))
        theta, value = _climb(theta, value, move, scores, prior)
        if np.abs(move).max() < _TOLERANCE:
            return Fit(theta - theta.mean(), step, True)
        if np.abs(theta).max() > _LARGEST_THETA:
            return Fit(theta - theta.mean(), step, False)
    return Fit(theta - theta.mean(), _MOST_STEPS, False)


def covariance(counts: PairCounts, theta: Floats, *, prior: float = PRIOR) -> Floats:
    """Sandwich covariance of the mean-centred strengths, shape (n, n)."""
    inverse = bread(counts, theta, prior=prior)
    result: Floats = inverse @ _meat(counts, theta) @ inverse
    return result


def bread(counts: PairCounts, theta: Floats, *, prior: float = PRIOR) -> Floats:
    """The inverse of the information, centred, shape (n, n): the covariance if the model were exactly true."""
    n = len(counts)
    _, hessian = _slopes(theta, counts.scores, counts.games, prior)
    centre = np.eye(n) - 1.0 / n
    result: Floats = centre @ np.linalg.inv(_full_rank(hessian, prior)) @ centre
    return result


def sandwich_interval(counts: PairCounts, theta: Floats, *, prior: float = PRIOR) -> tuple[Floats, Floats]:
    """Lower and upper end of the 95 % intervals in points, each of shape (n,).

    The sandwich is right for many votes; three wins of three have no residuals, and it would call them certain. So
    models with fewer than `_FEW_VOTES` get the interval of the information alone, which is wide.
    """
    variance = np.diag(covariance(counts, theta, prior=prior)).copy()
    few = counts.games.sum(axis=1) < _FEW_VOTES
    if few.any():
        information = np.diag(bread(counts, theta, prior=prior))
        variance[few] = np.maximum(variance, information)[few]
    spread = np.sqrt(np.maximum(variance, 0.0))
    margin = Z_95 * POINTS * spread
    ratings = to_points(theta)
    return ratings - margin, ratings + margin


def _value(theta: Floats, scores: Floats, prior: float) -> float:
    difference = theta[:, None] - theta[None, :]
    likelihood = -float((scores * np.logaddexp(0.0, -difference)).sum())
    return likelihood - 0.5 * prior * float((np.logaddexp(0.0, -theta) + np.logaddexp(0.0, theta)).sum())


def _slopes(theta: Floats, scores: Floats, games: Floats, prior: float) -> tuple[Floats, Floats]:
    """Gradient (n,) and negated Hessian (n, n) of the log-likelihood."""
    p = sigmoid(theta[:, None] - theta[None, :])
    gradient = (scores - games * p).sum(axis=1)
    weights = games * p * (1.0 - p)
    hessian = np.diag(weights.sum(axis=1)) - weights
    if prior:
        q = sigmoid(theta)
        gradient = gradient + prior * (0.5 - q)
        hessian[np.diag_indices_from(hessian)] += prior * q * (1.0 - q)
    return gradient, hessian


def _full_rank(hessian: Floats, prior: float) -> Floats:
    """Without a prior, strengths are known up to a constant, and groups that never met up to one each: hold those."""
    if prior:
        return hessian
    n = len(hessian)
    level = max(float(np.trace(hessian)) / n, 1e-12)
    result: Floats = hessian + level / n + np.eye(n) * (1e-10 * level)
    return result


def _climb(theta: Floats, value: float, move: Floats, scores: Floats, prior: float) -> tuple[Floats, float]:
    """Go up by `move`, or by a half, a quarter... of it where that overshoots."""
    for _ in range(30):
        there = theta + move
        got = _value(there, scores, prior)
        if got >= value - 1e-12 * abs(value):
            return there, got
        move = move * 0.5
    return theta, value


def _meat(counts: PairCounts, theta: Floats) -> Floats:
    """Summed outer products of the votes' scores: for a pair, votes times squared residual, on the pair's cells."""
    p = sigmoid(theta[:, None] - theta[None, :])
    squared = counts.wins * (1.0 - p) ** 2 + counts.wins.T * p**2 + counts.ties * (0.5 - p) ** 2
    meat: Floats = np.diag(squared.sum(axis=1)) - squared
    return meat
