"""Voters who do not vote as others do.

Each decisive vote has, from everybody's ratings, a probability of going to the model that it went to. A voter at odds
with the rest has too few of the likely ones. FastChat's `outlier_detect` looks at a sequence of p-values for the same
question; here the whole record is tested at once: the sum of log-likelihoods against its mean and variance under the
ratings (one-sided z-test), with Holm's correction over voters (S. Holm, Scand. J. Statistics 6, 1979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fcd.ratings.scale import Floats

FEWEST_VOTES = 5
ALPHA = 0.05


@dataclass(frozen=True)
class VoterTest:
    agreement: float
    """Share of decisive votes for the model rated higher."""
    expected: float
    p_value: float


def judge_voter(probability: Floats) -> VoterTest:
    """From the probabilities that the ratings gave to what was chosen, shape (votes,), none 0 or 1."""
    if not len(probability):
        return VoterTest(0.0, 0.0, 1.0)
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    q = 1.0 - p
    likely = np.maximum(p, q)
    got = float(np.log(p).sum())
    mean = float((p * np.log(p) + q * np.log(q)).sum())
    variance = float((p * q * (np.log(p) - np.log(q)) ** 2).sum())
    z = (got - mean) / math.sqrt(variance) if variance > 1e-12 else 0.0
    agreement = float((p > 0.5).mean() + 0.5 * (p == 0.5).mean())
    return VoterTest(agreement, float(likely.mean()), 0.5 * math.erfc(-z / math.sqrt(2.0)))


def holm(p_values: list[float], alpha: float = ALPHA) -> list[bool]:
    """Which of these tests reject, at a family-wise level of `alpha`."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    rejected = [False] * len(p_values)
    for place, index in enumerate(order):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected
