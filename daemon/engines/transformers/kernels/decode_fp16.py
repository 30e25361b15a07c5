"""Attention of rows that decode, over a store in fp16."""

from __future__ import annotations

from typing import Any

from numba import carray, cfunc

from daemon.engines.transformers.kernels.compiling import KEPT, SIGNATURE, halves, thread_count, thread_number
from daemon.engines.transformers.kernels.decode_attention import (
    EACH,
    KEY_DIM,
    KEYS,
    KV_HEADS,
    ROWS,
    SCRATCH,
    SIZE,
    VALUE_DIM,
    VALUES,
    attend_head,
    seen,
)


@cfunc(SIGNATURE, **KEPT)  # type: ignore[untyped-decorator]
def kernel(data: Any) -> None:
    """One thread's share: every so manyth K/V head of all rows."""
    table = carray(data, (SIZE,))
    scratch, heads = table[SCRATCH] + 4 * thread_number() * table[EACH], table[KV_HEADS]
    for item in range(thread_number(), table[ROWS] * heads, thread_count()):
        row, head = item // heads, item % heads
        count, key, value = seen(table, row, head)
        keys = halves(table[KEYS] + 2 * key, count * table[KEY_DIM])
        values = halves(table[VALUES] + 2 * value, count * table[VALUE_DIM])
        attend_head(table, row, head, keys, values, scratch)
