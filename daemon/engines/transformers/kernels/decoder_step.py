"""A whole step of rows that decode, one token each, through a decoder of the Llama family: every layer in one call.

Between operators of PyTorch a small step spends as long as in them. Here the threads stay together from the first norm
to the logits, and wait for each other where one part needs the whole of the one before. A row's result does not depend
on its company: each part computes a row by itself, in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit

from daemon.engines.transformers.kernels.compiling import (
    KEPT,
    KINDS,
    OPTIONS,
    SIGNATURE,
    F,
    bytes_of,
    exponential,
    floats,
    integers,
    meet,
    share,
    stored,
    thread_count,
    thread_number,
)
from daemon.engines.transformers.kernels.decode_attention import attend_head
from daemon.engines.transformers.kernels.products import PANELS, PLACES, padded, panel_product, product, quantize_rows
from daemon.engines.transformers.kernels.tiles import COLUMNS

# The table's places. What the model is: EPS and SCALE are addresses of fp32 numbers, MEETING_PLACE is where the threads
# meet.
LAYERS, WIDTH, HEADS, KV_HEADS, DIM, INNER, EPS, SCALE, MEETING_PLACE = 0, 1, 2, 3, 4, 5, 6, 7, 8
# What the step is: the addresses of the rows' slots and positions, and of which of the step's slabs each is in; the
# tables of the rotation, [position, DIM]; the slabs, [layer, SLABS] of KV_PLACES numbers each.
ROWS, SLOTS, POSITIONS, SLAB, COS, SIN, SLABS, STORE = 9, 10, 11, 12, 13, 14, 15, 16
# What it works with: [ROWS, ...] for the rows themselves, their normalised form, the attention's inputs and answers,
# the inner activations; for int8 the whole numbers of the widest and their steps; EACH numbers for each thread.
X, NORMED, QKV, MIXED, ACTIVE, CODES, STEPS, SCRATCH, EACH, LOGITS = 17, 18, 19, 20, 21, 22, 23, 24, 25, 26
# The last norm's weights, the output layer, then the layers, LAYER numbers each.
NORM, HEAD, FIRST = 27, 28, 28 + PLACES
# A layer's places: addresses of the norms' weights (0 for none), products, and its window (0 for none).
QKV_NORM, QKV_PRODUCT, QUERY_NORM, KEY_NORM = 0, 1, 1 + PLACES, 2 + PLACES
OUT_PRODUCT, MLP_NORM = 3 + PLACES, 3 + 2 * PLACES
GATE_UP, DOWN, WINDOW = 4 + 2 * PLACES, 4 + 3 * PLACES, 4 + 4 * PLACES
LAYER = 5 + 4 * PLACES
# A slab's: the addresses of K and V, and the strides of slots and heads, in numbers; they are the same for both.
KEYS, VALUES, SLOT, HEAD_STRIDE = 0, 1, 2, 3
KV_PLACES = 4
# What a product does with what is there. Of this type, since functions are compiled anew for each plain constant.
NOTHING, ADD = np.int64(0), np.int64(1)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _normalise(row: Any, weight: Any, eps: Any, out: Any) -> None:
    """RMS normalisation; `out` may be the row itself."""
    squares = F(0.0)
    for i in range(row.shape[0]):
        squares += row[i] * row[i]
    factor = F(1.0) / np.sqrt(squares / F(row.shape[0]) + eps)
    for i in range(row.shape[0]):
        out[i] = row[i] * factor * weight[i]


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _turn(low: Any, high: Any, cos: Any, sin: Any) -> None:
    """Rotate the two halves of a head; the first half of the sines is negated."""
    half = low.shape[0]
    for i in range(half):
        first, second = low[i], high[i]
        low[i] = first * cos[i] + second * sin[i]
        high[i] = second * cos[half + i] + first * sin[half + i]


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _prepare(head: Any, dim: Any, norm: Any, eps: Any, cos: Any, sin: Any) -> None:
    """Normalise and rotate the query or key at an address."""
    if norm != 0:
        whole = floats(head, dim)
        _normalise(whole, floats(norm, dim), eps, whole)
    _turn(floats(head, dim // 2), floats(head + 2 * dim, dim // 2), cos, sin)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _attend(table: Any, layer: Any, number: Any, row: Any, head: Any, scratch: Any, kind: Any) -> None:
    """One K/V head of one row, over a store of this kind."""
    dim, kv_heads, rows = table[DIM], table[KV_HEADS], table[ROWS]
    group = table[HEADS] // kv_heads
    position = integers(table[POSITIONS], rows)[row]
    cos = floats(table[COS] + 4 * position * dim, dim)
    sin = floats(table[SIN] + 4 * position * dim, dim)
    eps = floats(table[EPS], 1)[0]
    own = table[QKV] + 4 * dim * row * (table[HEADS] + 2 * kv_heads)
    query = own + 4 * dim * head * group
    key = own + 4 * dim * (table[HEADS] + head)
    value = own + 4 * dim * (table[HEADS] + kv_heads + head)
    for member in range(group):
        _prepare(query + 4 * dim * member, dim, table[layer + QUERY_NORM], eps, cos, sin)
    _prepare(key, dim, table[layer + KEY_NORM], eps, cos, sin)
    slab = KV_PLACES * (number * table[SLABS] + integers(table[SLAB], rows)[row])
    store = integers(table[STORE], KV_PLACES * table[LAYERS] * table[SLABS])[slab : slab + KV_PLACES]
    window = table[layer + WINDOW]
    first = max(0, position + 1 - window) if window > 0 else 0
    count = position + 1 - first
    place = integers(table[SLOTS], rows)[row] * store[SLOT] + head * store[HEAD_STRIDE] + first * dim
    attend_head(
        query,
        dim,
        group,
        floats(key, dim),
        floats(value, dim),
        stored(store[KEYS] + bytes_of(kind) * place, count * dim, kind),
        stored(store[VALUES] + bytes_of(kind) * place, count * dim, kind),
        floats(scratch, count),
        floats(table[SCALE], 1)[0],
        table[MIXED] + 4 * dim * (row * table[HEADS] + head * group),
    )


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _attention(table: Any, layer: Any, number: Any, kept: Any) -> None:
    """The calling thread's part: every so manyth K/V head of all rows."""
    scratch, heads = table[SCRATCH] + 4 * thread_number() * table[EACH], table[KV_HEADS]
    for item in range(thread_number(), table[ROWS] * heads, thread_count()):
        _attend(table, layer, number, item // heads, item % heads, scratch, kept)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _norm_rows(table: Any, weight: Any) -> None:
    """The calling thread's part of the rows, from X to NORMED."""
    width, eps = table[WIDTH], floats(table[EPS], 1)[0]
    for row in range(thread_number(), table[ROWS], thread_count()):
        source = floats(table[X] + 4 * row * width, width)
        _normalise(source, floats(weight, width), eps, floats(table[NORMED] + 4 * row * width, width))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _input(kind: Any, table: Any, x: Any, width: Any) -> Any:
    """What a product reads of these rows: themselves, or whole numbers made of them, by all threads."""
    if bytes_of(kind) != 1:
        return x
    quantize_rows(x, width, table[ROWS], width, table[CODES], table[STEPS])
    meet(table[MEETING_PLACE])
    return table[CODES]


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _product(kind: Any, table: Any, at: Any, x: Any, width: Any, out: Any, add: Any) -> None:
    """All threads', and ready when it returns."""
    source = _input(kind, table, x, width)
    product(kind, table, at, source, padded(kind, width), table[ROWS], table[STEPS], out, add)
    meet(table[MEETING_PLACE])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _gated(gate: Any, up: Any, out: Any) -> None:
    """SiLU of the gate, times the other."""
    for i in range(gate.shape[0]):
        x = gate[i]
        small = exponential(-abs(x))
        out[i] = x * (F(1.0) if x >= F(0.0) else small) / (F(1.0) + small) * up[i]


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _gate_up(kind: Any, table: Any, at: Any) -> None:
    """Both halves of the product by the same thread, and the activation upon them; ready when it returns."""
    width, inner, rows = table[WIDTH], table[INNER], table[ROWS]
    source, stride = _input(kind, table, table[NORMED], width), padded(kind, width)
    half, wide = table[at + PANELS] // 2, np.int64(COLUMNS)
    gate = table[SCRATCH] + 4 * thread_number() * table[EACH]
    up = gate + 4 * COLUMNS * rows
    first, end = share(half)
    for panel in range(first, end):
        panel_product(kind, table, at, panel, source, stride, rows, table[STEPS], gate, wide, NOTHING)
        panel_product(kind, table, at, half + panel, source, stride, rows, table[STEPS], up, wide, NOTHING)
        for row in range(rows):
            place = 4 * COLUMNS * row
            out = floats(table[ACTIVE] + 4 * (row * inner + COLUMNS * panel), COLUMNS)
            _gated(floats(gate + place, COLUMNS), floats(up + place, COLUMNS), out)
    meet(table[MEETING_PLACE])


def compiled(weights: str, cache: str) -> Any:
    """The kernel for weights and for a store of these kinds."""
    kind, kept = KINDS[weights], KINDS[cache]

    @cfunc(SIGNATURE, **KEPT)  # type: ignore[untyped-decorator]
    def decoder_step(data: Any) -> None:
        """One thread's share."""
        table = carray(data, (FIRST,))
        table = carray(data, (FIRST + LAYER * table[LAYERS],))
        width, answers = table[WIDTH], table[HEADS] * table[DIM]
        for number in range(table[LAYERS]):
            layer = FIRST + LAYER * number
            _norm_rows(table, table[layer + QKV_NORM])
            meet(table[MEETING_PLACE])
            _product(kind, table, layer + QKV_PRODUCT, table[NORMED], width, table[QKV], NOTHING)
            _attention(table, layer, number, kept)
            meet(table[MEETING_PLACE])
            _product(kind, table, layer + OUT_PRODUCT, table[MIXED], answers, table[X], ADD)
            _norm_rows(table, table[layer + MLP_NORM])
            meet(table[MEETING_PLACE])
            _gate_up(kind, table, layer + GATE_UP)
            _product(kind, table, layer + DOWN, table[ACTIVE], table[INNER], table[X], ADD)
        _norm_rows(table, table[NORM])
        meet(table[MEETING_PLACE])
        _product(kind, table, HEAD, table[NORMED], width, table[LOGITS], NOTHING)

    return decoder_step
