"""argparse types for numbers that have bounds: what is out of them is refused before anything is started or loaded."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def within(low: float, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A type for numbers from `low` (or above it) to `high`. NaN is none."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low < value if above else low <= value) or not value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"'{text}' is not a number {_bounds(low, high, above)}")
        return value

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type for whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number {_bounds(low, high, above=False)}")
        return value

    return read


temperature = within(0, 2)
share = within(0, 1)
"""Of probability: top_p, min_p."""
top_k = whole(-1, 2**31 - 1)
repetition_penalty = within(0, 100, above=True)
seed = whole(-(2**63), 2**63 - 1)
lines = whole(1, 10_000)


def _bounds(low: float, high: float, above: bool) -> str:
    if high == math.inf or high >= 2**31 - 1:
        return f"above {low:g}" if above else f"of {low:g} or more"
    return f"above {low:g}, and at most {high:g}" if above else f"between {low:g} and {high:g}"
