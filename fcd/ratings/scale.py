"""Points and natural logarithms of strength."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCALE = 400.0
START = 1000.0
POINTS = SCALE / math.log(10.0)
"""Rating points per unit of `theta`."""

Z_95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def to_points(theta: Floats) -> Floats:
    """Ratings whose mean is `START` where `theta` has mean 0."""
    return theta * POINTS + START


def win_probability(theta: Floats) -> Floats:
    """P[i, j]: the probability that i is preferred to j, shape (n, n)."""
    return sigmoid(theta[:, None] - theta[None, :])


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)); `x` is within what exp can hold."""
    y: Any = np.negative(x)
    np.exp(y, out=y)
    y += 1.0
    np.reciprocal(y, out=y)
    result: Floats = y
    return result
