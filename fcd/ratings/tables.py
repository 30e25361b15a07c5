"""What boards show besides ratings: ranks, win rates, who beat whom, agreement."""

from __future__ import annotations

import math

import numpy as np

from fcd.ratings.counts import PairCounts
from fcd.ratings.scale import Z_95, Floats, Ints


def ranks(lower: Floats, upper: Floats) -> Ints:
    """1 + how many models are surely better: their lower bound is above one's upper bound (LMArena's rank UB)."""
    better: Ints = (lower[None, :] > upper[:, None]).sum(axis=1).astype(np.int64)
    return better + 1


def records(counts: PairCounts) -> tuple[Floats, Floats, Floats]:
    """Wins, losses and ties of each model, each of shape (n,)."""
    return counts.wins.sum(axis=1), counts.wins.sum(axis=0), counts.ties.sum(axis=1)


def win_rates(counts: PairCounts) -> Floats:
    """Share of each model's votes that it won, ties as half; 0 without votes. Shape (n,)."""
    games = counts.games.sum(axis=1)
    rates: Floats = counts.scores.sum(axis=1) / np.maximum(games, 1.0)
    return rates


def head_to_head(counts: PairCounts) -> Floats:
    """Share of votes that row won against column, ties as half; NaN where they never met. Shape (n, n)."""
    games = counts.games
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: Floats = np.where(games > 0, counts.scores / games, np.nan)
    return rates


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """95 % interval of a proportion (E. B. Wilson, JASA 22, 1927); (0, 1) without trials."""
    if trials <= 0:
        return 0.0, 1.0
    share, z2 = successes / trials, Z_95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return max(0.0, middle - half), min(1.0, middle + half)
