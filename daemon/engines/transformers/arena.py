"""K and V of every row in one stretch of memory per layer, token by token: `[tokens, heads, dim]`.

A kernel that is told where each row begins needs no slabs: rows of every size class lie anywhere, and moving one to
another slot changes a number. The stretch grows with what is used, up to its bound; when free places are too small for
a row, everything slides together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from daemon.engines.transformers.kv_store import LayerSpec
from daemon.engines.transformers.rows import Copy, Effect, Resize, RowPool

FIRST_SHARE = 8
"""The stretch begins with this part of its bound, and doubles."""
FIRST_TOKENS = 4096
"""And with at least so many tokens, where the bound allows them."""


class Extents:
    """Which stretches of `0:size` are free. Pure; first fit."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free: list[tuple[int, int]] = [(0, size)] if size else []
        """(start, end), ascending, never touching."""

    def take(self, length: int) -> int | None:
        """The start of a free stretch of this length, now taken; None when there is none."""
        for i, (start, end) in enumerate(self.free):
            if end - start >= length:
                if end - start == length:
                    del self.free[i]
                else:
                    self.free[i] = (start + length, end)
                return start
        return None

    def give(self, start: int, length: int) -> None:
        """Free a stretch again."""
        if not length:
            return
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self.free, (start, start + length)]):
            if merged and merged[-1][1] == low:
                merged[-1] = (merged[-1][0], high)
            else:
                merged.append((low, high))
        self.free = merged

    def grow(self, size: int) -> None:
        """Make it this large."""
        held, self.size = self.size, size
        self.give(held, size - held)


def slide(extents: list[tuple[int, int]]) -> list[int]:
    """Where each `(start, length)` goes when all move down without gaps, in the order of their starts."""
    order = sorted(range(len(extents)), key=lambda i: extents[i][0])
    starts = [0] * len(extents)
    at = 0
    for i in order:
        starts[i] = at
        at += extents[i][1]
    return starts


class ArenaStore:
    """What `KvStore` is, for attention that reads rows by their first token's place.

    Place 0 of every layer is scratch: padding writes and reads it.

    Args:
        layers: what each layer stores.
        pool: whose effects are carried out; its budget bounds the memory.
    """

    def __init__(self, layers: list[LayerSpec], pool: RowPool) -> None:
        self.layers = layers
        self.pool = pool
        self.limit = max(pool.max_tokens, pool.budget // pool.bytes_per_token)
        first = max(FIRST_TOKENS, self.limit // FIRST_SHARE)
        self._extents = Extents(min(first, self.limit))
        self._starts: list[list[int]] = [[] for _ in pool.classes]
        self.generation = 0
        """Changes when the tensors are others than before."""
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._allocate()

    def start(self, size_class: int, slot: int) -> int:
        """The place of a row's first token."""
        return self._starts[size_class][slot] + 1

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out what the pool decided, in its order."""
        for effect in effects:
            if isinstance(effect, Resize):
                self._resize(effect.size_class, effect.slots)
            elif isinstance(effect, Copy):
                source = self.start(effect.from_class, effect.from_slot)
                self._move(source, self.start(effect.to_class, effect.to_slot), effect.tokens)
            else:
                starts = self._starts[effect.size_class]
                starts[effect.slot_a], starts[effect.slot_b] = starts[effect.slot_b], starts[effect.slot_a]

    def allocated_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def _resize(self, size_class: int, slots: int) -> None:
        starts, capacity = self._starts[size_class], self.pool.classes[size_class].capacity
        while len(starts) > slots:
            self._extents.give(starts.pop(), capacity)
        while len(starts) < slots:
            starts.append(self._place(capacity))

    def _place(self, capacity: int) -> int:
        start = self._extents.take(capacity)
        if start is None and self._extents.size < self.limit:
            self._extents.grow(min(self.limit, max(2 * self._extents.size, self._extents.size + capacity)))
            self._allocate()
            start = self._extents.take(capacity)
        if start is None:
            self._slide()
            start = self._extents.take(capacity)
        if start is None:
            raise RuntimeError(f"no room for a row of {capacity} tokens among {self._extents.size}")
        return start

    def _allocate(self) -> None:
        """Tensors of the present size with the content of those before, a layer at a time: little is held twice."""
        size = self._extents.size + 1
        for tensors, width in ((self.keys, "key_dim"), (self.values, "value_dim")):
            for index, layer in enumerate(self.layers):
                shape = (size, layer.heads, getattr(layer, width))
                new = torch.zeros(shape, dtype=layer.dtype, device=layer.device)
                if index == len(tensors):
                    tensors.append(new)
                    continue
                new[: tensors[index].shape[0]] = tensors[index]
                tensors[index] = new
                if layer.device.type == "cuda":
                    # The old ones fit nothing that comes: kept for reuse they would count twice.
                    torch.cuda.empty_cache()
        self.generation += 1

    def _slide(self) -> None:
        rows = [(c, slot) for c, starts in enumerate(self._starts) for slot in range(len(starts))]
        extents = [(self._starts[c][slot], self.pool.classes[c].capacity) for c, slot in rows]
        targets = slide(extents)
        for i in sorted(range(len(rows)), key=lambda i: extents[i][0]):
            size_class, slot = rows[i]
            self._move(extents[i][0] + 1, targets[i] + 1, extents[i][1])
            self._starts[size_class][slot] = targets[i]
        used = sum(length for _, length in extents)
        self._extents.free = [(used, self._extents.size)] if used < self._extents.size else []

    def _move(self, source: int, target: int, tokens: int) -> None:
        if source == target or not tokens:
            return
        overlap = abs(source - target) < tokens
        for tensor in (*self.keys, *self.values):
            held = tensor[source : source + tokens]
            tensor[target : target + tokens] = held.clone() if overlap else held
