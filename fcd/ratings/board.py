"""A board: ratings, intervals, ranks and records of one set of votes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fcd.ratings.bootstrap import bootstrap, quantile_interval
from fcd.ratings.bradley_terry import PRIOR, Fit, fit, sandwich_interval
from fcd.ratings.counts import PairCounts
from fcd.ratings.scale import Floats, Ints
from fcd.ratings.tables import ranks


@dataclass(frozen=True)
class Board:
    """One row per model of `counts`, in its order; arrays of shape (n,), in points."""

    counts: PairCounts
    ratings: Floats
    lower: Floats
    upper: Floats
    ranks: Ints

    @property
    def order(self) -> list[int]:
        """Rows by rating, best first; equal ones by name."""
        names = self.counts.models
        return sorted(range(len(names)), key=lambda row: (-self.ratings[row], names[row]))


def make_board(
    counts: PairCounts,
    *,
    intervals: str = "sandwich",
    rounds: int = 1000,
    seed: int = 0,
    prior: float = PRIOR,
    start: Fit | None = None,
    anchor: tuple[str, float] | None = None,
) -> Board:
    """Bradley-Terry over pair counts. `anchor` shifts the scale so that this model has this rating."""
    fitted = fit(counts, prior=prior, start=start.theta if start is not None else None)
    return board_of(counts, fitted, intervals=intervals, rounds=rounds, seed=seed, prior=prior, anchor=anchor)


def board_of(
    counts: PairCounts,
    fitted: Fit,
    *,
    intervals: str = "sandwich",
    rounds: int = 1000,
    seed: int = 0,
    prior: float = PRIOR,
    anchor: tuple[str, float] | None = None,
) -> Board:
    ratings = fitted.ratings
    lower, upper = ratings, ratings
    if intervals == "sandwich" and len(counts):
        lower, upper = sandwich_interval(counts, fitted.theta, prior=prior)
    elif intervals == "bootstrap" and len(counts):
        lower, upper = quantile_interval(bootstrap(counts, fitted.theta, rounds=rounds, seed=seed, prior=prior))
    shift = 0.0
    if anchor is not None and anchor[0] in counts.models:
        shift = anchor[1] - float(ratings[counts.models.index(anchor[0])])
    return Board(counts.copy(), ratings + shift, lower + shift, upper + shift, ranks(lower, upper))


def plain_board(counts: PairCounts, ratings: Floats, lower: Floats | None = None, upper: Floats | None = None) -> Board:
    """A board of ratings that were found elsewhere (Elo, style control)."""
    low = ratings if lower is None else lower
    high = ratings if upper is None else upper
    return Board(counts, np.asarray(ratings), low, high, ranks(low, high))


class LiveBoard:
    """Counts that grow vote by vote, and a fit that starts from the last one."""

    def __init__(self, counts: PairCounts | None = None, *, prior: float = PRIOR) -> None:
        self.counts = counts or PairCounts()
        self._prior = prior
        self._fit: Fit | None = None

    def add(self, model_a: str, model_b: str, score: float, weight: float = 1.0) -> None:
        self.counts.add(model_a, model_b, score, weight)

    def board(self, *, intervals: str = "sandwich") -> Board:
        self._fit = fit(self.counts, prior=self._prior, start=self._fit.theta if self._fit is not None else None)
        return board_of(self.counts, self._fit, intervals=intervals, prior=self._prior)
