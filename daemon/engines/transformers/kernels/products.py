"""Products of rows with packed weights, and what goes before and behind them in the same pass.

Each thread takes a stretch of the panels, for all rows. For int8 weights a row becomes whole numbers of 16 bits first,
on a grid of its own: so many steps that no sum can overflow, 1,376 or more up to a depth of 12,288.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit

from daemon.engines.transformers.kernels.compiling import (
    INT8,
    KEPT,
    KINDS,
    OPTIONS,
    SIGNATURE,
    F,
    barrier,
    bytes_of,
    floats,
    share,
    stored,
    thread_count,
    thread_number,
)
from daemon.engines.transformers.kernels.tiles import COLUMNS, ROWS, multiply

# A product's places in a table: the address of its panels, of an fp32 scale for each column (int8), of a bias (0 for
# none); how many panels, and numbers of a row.
WEIGHTS, SCALES, BIAS, PANELS, DEPTH = 0, 1, 2, 3, 4
PLACES = 5
# The kernel's table: a product; then fp32 rows [COUNT, DEPTH], STRIDE numbers apart; [COUNT, 16 * PANELS] for the
# answer; and for int8, whole numbers [COUNT, DEPTH rounded up] and steps [COUNT].
INPUT, STRIDE, COUNT, OUT, CODES, STEPS = 5, 6, 7, 8, 9, 10
SIZE = 11
_MOST = 2**31 - 1
_LEAST = F(1e-30)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def top(depth: Any) -> Any:
    """The largest whole number of a row: so many products with 127 make a number of 31 bits."""
    return min(32767, _MOST // (127 * depth))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def quantize(row: Any, codes: Any, most: Any) -> Any:
    """A row in whole numbers up to `most`; gives what one of them stands for. Something that is no number shows there.

    The largest value and what is no number are found together: it is lost in a comparison, and stays in a sum.
    """
    largest, total = F(0.0), F(0.0)
    for i in range(row.shape[0]):
        largest = max(largest, abs(row[i]))
        total += abs(row[i])
    step = max(largest / F(most), _LEAST) if total >= F(0.0) else total
    for i in range(row.shape[0]):
        codes[i] = np.int16(np.int32(np.rint(row[i] / step)))
    return step


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def quantize_rows(x: Any, stride: Any, rows: Any, depth: Any, codes: Any, steps: Any) -> None:
    """The calling thread's part of the rows."""
    even = depth + depth % 2
    found, most = floats(steps, rows), top(depth)
    for number in range(thread_number(), rows, thread_count()):
        row = floats(x + 4 * number * stride, depth)
        own = stored(codes + 2 * number * even, even, np.int16(0))
        own[even - 1] = np.int16(0)
        found[number] = quantize(row, own[:depth], most)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def product(kind: Any, table: Any, at: Any, x: Any, stride: Any, rows: Any, steps: Any, out: Any, add: Any) -> None:
    """The calling thread's panels of one product.

    Args:
        at: where the product stands in the table.
        x: the address of the rows, whole numbers for int8, with their `steps` at another.
        out: `[rows, 16 * panels]`, to which it is added if `add`.
    """
    width = COLUMNS * table[at + PANELS]
    first, end = share(table[at + PANELS])
    for panel in range(first, end):
        panel_product(kind, table, at, panel, x, stride, rows, steps, out + 4 * COLUMNS * panel, width, add)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def panel_product(
    kind: Any,
    table: Any,
    at: Any,
    panel: Any,
    x: Any,
    stride: Any,
    rows: Any,
    steps: Any,
    out: Any,
    width: Any,
    add: Any,
) -> None:
    """One panel of a product: sixteen columns of each row, `width` numbers before the next row's."""
    depth = padded(kind, table[at + DEPTH])
    size = COLUMNS * bytes_of(kind) * depth
    weights = table[at + WEIGHTS] + panel * size
    # 0 stays 0: there is none.
    bias = table[at + BIAS] + 4 * COLUMNS * panel if table[at + BIAS] != 0 else 0
    blocks = (rows + ROWS - 1) // ROWS
    # Each block asks for its part of the next panel, so that memory is never idle while they compute.
    pace = 2 * COLUMNS // blocks
    for block in range(blocks):
        start, stop = rows * block // blocks, rows * (block + 1) // blocks
        multiply(
            kind,
            stop - start,
            x + row_bytes(kind, stride) * start,
            stride,
            weights,
            depth,
            weights + size + size * block // blocks,
            pace,
            table[at + SCALES] + 4 * COLUMNS * panel,
            bias,
            steps + 4 * start,
            out + 4 * width * start,
            width,
            add,
        )


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def padded(kind: Any, depth: Any) -> Any:
    """The numbers of a row as a tile reads them."""
    return depth + depth % 2 if bytes_of(kind) == 1 else depth


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def row_bytes(kind: Any, stride: Any) -> Any:
    """From one row to the next."""
    return (2 if bytes_of(kind) == 1 else 4) * stride


def compiled(name: str) -> Any:
    """The kernel for weights of this kind."""
    kind = KINDS[name]
    whole = kind.dtype == INT8.dtype

    @cfunc(SIGNATURE, **KEPT)  # type: ignore[untyped-decorator]
    def product_of_rows(data: Any) -> None:
        """One thread's share."""
        table = carray(data, (SIZE,))
        rows, depth = table[COUNT], table[DEPTH]
        x, stride = table[INPUT], table[STRIDE]
        if whole:
            quantize_rows(x, stride, rows, depth, table[CODES], table[STEPS])
            barrier()
            x, stride = table[CODES], depth + depth % 2
        product(kind, table, 0, x, stride, rows, table[STEPS], table[OUT], 0)

    return product_of_rows
