"""Attention of rows that decode, one query token each, over keys and values where they lie in the store.

Each K/V head of each row is one thread's: it writes the new key and value, and its result depends on no other row.
Nothing is masked or padded: a row reads as far as it goes.
"""

from __future__ import annotations

from typing import Any

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
    like,
    number,
    stored,
    thread_count,
    thread_number,
)

# The table's places. Strides count numbers; what follows an address by a comma are its strides.
QUERY, QUERY_ROW, QUERY_HEAD = 0, 1, 2
KEY, KEY_ROW, KEY_HEAD = 3, 4, 5
VALUE, VALUE_ROW, VALUE_HEAD = 6, 7, 8
KEYS, KEYS_SLOT, KEYS_HEAD = 9, 10, 11
VALUES, VALUES_SLOT, VALUES_HEAD = 12, 13, 14
# Addresses of as many 64-bit integers as there are rows.
SLOTS, POSITIONS = 15, 16
# GROUP: query heads for each K/V head. WINDOW: 0 for none.
ROWS, KV_HEADS, GROUP, KEY_DIM, VALUE_DIM, WINDOW = 17, 18, 19, 20, 21, 22
# [rows, heads, value_dim]; then numbers to work with, EACH for a thread: one for each token of the longest row.
OUT, SCRATCH, EACH = 23, 24, 25
# The address of an fp32 number.
SCALE = 26
SIZE = 27


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _scores(query: Any, keys: Any, scores: Any, scale: Any) -> Any:
    """Each key's product with the query, four keys at a time; gives the largest.

    The slices matter: sums over computed indices do not become vectors.
    """
    dim, count = query.shape[0], scores.shape[0]
    largest = F(-3.4e38)
    token = 0
    while token + 4 <= count:
        k0 = keys[token * dim : (token + 1) * dim]
        k1 = keys[(token + 1) * dim : (token + 2) * dim]
        k2 = keys[(token + 2) * dim : (token + 3) * dim]
        k3 = keys[(token + 3) * dim : (token + 4) * dim]
        s0, s1, s2, s3 = F(0.0), F(0.0), F(0.0), F(0.0)
        for i in range(dim):
            q = query[i]
            s0 += q * number(k0[i])
            s1 += q * number(k1[i])
            s2 += q * number(k2[i])
            s3 += q * number(k3[i])
        scores[token], scores[token + 1], scores[token + 2], scores[token + 3] = s0, s1, s2, s3
        token += 4
    while token < count:
        key = keys[token * dim : (token + 1) * dim]
        total = F(0.0)
        for i in range(dim):
            total += query[i] * number(key[i])
        scores[token] = total
        token += 1
    for token in range(count):
        scores[token] *= scale
        largest = max(largest, scores[token])
    return largest


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _weights(scores: Any, largest: Any) -> Any:
    """The exponentials in the scores' place; gives their sum."""
    total = F(0.0)
    for token in range(scores.shape[0]):
        weight = exponential(scores[token] - largest)
        scores[token] = weight
        total += weight
    return total


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _mix(weights: Any, values: Any, out: Any, share: Any) -> None:
    """The weighted sum of the values, four tokens at a time, times `share`."""
    dim, count = out.shape[0], weights.shape[0]
    for i in range(dim):
        out[i] = F(0.0)
    token = 0
    while token + 4 <= count:
        w0, w1, w2, w3 = weights[token], weights[token + 1], weights[token + 2], weights[token + 3]
        v0 = values[token * dim : (token + 1) * dim]
        v1 = values[(token + 1) * dim : (token + 2) * dim]
        v2 = values[(token + 2) * dim : (token + 3) * dim]
        v3 = values[(token + 3) * dim : (token + 4) * dim]
        for i in range(dim):
            out[i] += (w0 * number(v0[i]) + w1 * number(v1[i])) + (w2 * number(v2[i]) + w3 * number(v3[i]))
        token += 4
    while token < count:
        value = values[token * dim : (token + 1) * dim]
        for i in range(dim):
            out[i] += weights[token] * number(value[i])
        token += 1
    for i in range(dim):
        out[i] *= share


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _keep(source: Any, target: Any) -> None:
    """At the target's end."""
    first = target.shape[0] - source.shape[0]
    for i in range(source.shape[0]):
        target[first + i] = like(source[i], target[first + i])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def attend_head(
    query: Any, stride: Any, group: Any, key: Any, value: Any, keys: Any, values: Any, scores: Any, scale: Any, out: Any
) -> None:
    """One K/V head of one row.

    Args:
        query: the address of the first of `group` queries, `stride` numbers apart.
        key: the new one, and `value`; `keys` and `values` are what the row sees, the last of them to be written.
        scores: to work with, one for each of them.
        out: the address of the first query's answer; the others' stand behind it.
    """
    _keep(key, keys)
    _keep(value, values)
    key_dim, value_dim = key.shape[0], value.shape[0]
    for member in range(group):
        own = floats(query + 4 * member * stride, key_dim)
        answer = floats(out + 4 * member * value_dim, value_dim)
        total = _weights(scores, _scores(own, keys, scores, scale))
        _mix(scores, values, answer, F(1.0) / total)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _attend(table: Any, row: Any, head: Any, scratch: Any, kind: Any) -> None:
    key_dim, value_dim, group = table[KEY_DIM], table[VALUE_DIM], table[GROUP]
    slot, position = integers(table[SLOTS], table[ROWS])[row], integers(table[POSITIONS], table[ROWS])[row]
    first = max(0, position + 1 - table[WINDOW]) if table[WINDOW] > 0 else 0
    count = position + 1 - first
    keys = slot * table[KEYS_SLOT] + head * table[KEYS_HEAD] + first * key_dim
    values = slot * table[VALUES_SLOT] + head * table[VALUES_HEAD] + first * value_dim
    attend_head(
        table[QUERY] + 4 * (row * table[QUERY_ROW] + head * group * table[QUERY_HEAD]),
        table[QUERY_HEAD],
        group,
        floats(table[KEY] + 4 * (row * table[KEY_ROW] + head * table[KEY_HEAD]), key_dim),
        floats(table[VALUE] + 4 * (row * table[VALUE_ROW] + head * table[VALUE_HEAD]), value_dim),
        stored(table[KEYS] + bytes_of(kind) * keys, count * key_dim, kind),
        stored(table[VALUES] + bytes_of(kind) * values, count * value_dim, kind),
        floats(scratch, count),
        floats(table[SCALE], 1)[0],
        table[OUT] + 4 * (row * table[KV_HEADS] + head) * group * value_dim,
    )


def compiled(name: str) -> Any:
    """The kernel over a store of this kind."""
    kind = KINDS[name]

    @cfunc(SIGNATURE, **KEPT)  # type: ignore[untyped-decorator]
    def decode_attention(data: Any) -> None:
        """One thread's share: every so manyth K/V head of all rows."""
        table = carray(data, (SIZE,))
        scratch, heads = table[SCRATCH] + 4 * thread_number() * table[EACH], table[KV_HEADS]
        for item in range(thread_number(), table[ROWS] * heads, thread_count()):
            _attend(table, item // heads, item % heads, scratch, kind)

    return decode_attention
