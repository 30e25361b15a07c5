"""Rows divided by their own step, for products with 8-bit weights, and which of them have outliers: one pass over each
row that is in no cache, where operators take seven."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit

from daemon.engines.transformers.kernels.compiling import (
    KEPT,
    OPTIONS,
    SIGNATURE,
    F,
    floats,
    integers,
    thread_count,
    thread_number,
)

# The table's places. INPUT [ROWS, WIDTH], its rows STRIDE numbers apart; OUTPUT [ROWS, WIDTH]; STEPS [ROWS]. WIDE:
# [ROWS] 64-bit integers, not 0 for a row with outliers. LIMITS: the address of three fp32 numbers: the largest value
# after the division, the least step, and how many times its norm a row's largest value may be.
INPUT, STRIDE, OUTPUT, STEPS, WIDE, LIMITS, ROWS, WIDTH = 0, 1, 2, 3, 4, 5, 6, 7
SIZE = 8


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _scale(row: Any, out: Any, top: Any, least: Any) -> Any:
    """Gives the step, the row's largest absolute value and the sum of its squares."""
    largest, squares = F(0.0), F(0.0)
    for i in range(row.shape[0]):
        value = row[i]
        largest = max(largest, abs(value))
        squares += value * value
    # Something that is no number is lost in a comparison, and shows in the sum.
    step = max(largest / top, least) if squares >= F(0.0) else squares
    for i in range(row.shape[0]):
        out[i] = row[i] / step
    return step, largest, squares


@cfunc(SIGNATURE, **KEPT)  # type: ignore[untyped-decorator]
def kernel(data: Any) -> None:
    """One thread's share: every so manyth row."""
    table = carray(data, (SIZE,))
    rows, width = table[ROWS], table[WIDTH]
    limits, steps, wide = floats(table[LIMITS], 3), floats(table[STEPS], rows), integers(table[WIDE], rows)
    for row in range(thread_number(), rows, thread_count()):
        source = floats(table[INPUT] + 4 * row * table[STRIDE], width)
        target = floats(table[OUTPUT] + 4 * row * width, width)
        step, largest, squares = _scale(source, target, limits[0], limits[1])
        steps[row] = step
        # The wrong way round, so that a row with something that is no number is wide as well.
        wide[row] = 0 if largest <= limits[2] * np.sqrt(squares) else 1
