"""The tensors behind the row pool: one K and one V slab per layer and size class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from daemon.engines.transformers.rows import Copy, Effect, Resize, RowPool


@dataclass(frozen=True)
class LayerSpec:
    """What one attention layer stores for each token."""

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


class KvStore:
    """K and V for every row, as `[slots, heads, capacity, dim]` so that a head's tokens are contiguous.

    Memory is zeroed when it is taken: attention reads past a row's end under a mask, and a NaN would survive it.
    """

    def __init__(self, layers: list[LayerSpec], pool: RowPool) -> None:
        self.layers = layers
        self.pool = pool
        self.keys = [[self._empty(layer, 0, c.capacity, layer.key_dim) for layer in layers] for c in pool.classes]
        self.values = [[self._empty(layer, 0, c.capacity, layer.value_dim) for layer in layers] for c in pool.classes]

    def apply(self, effects: Iterable[Effect]) -> None:
        """Carry out what the pool decided, in its order."""
        for effect in effects:
            if isinstance(effect, Resize):
                self._resize(effect)
            elif isinstance(effect, Copy):
                self._copy(effect)
            else:
                self._swap(effect.size_class, effect.slot_a, effect.slot_b, effect.tokens)

    def allocated_bytes(self) -> int:
        slabs = [*self.keys, *self.values]
        return sum(tensor.nbytes for slab in slabs for tensor in slab)

    @staticmethod
    def _empty(layer: LayerSpec, slots: int, capacity: int, dim: int) -> torch.Tensor:
        return torch.zeros(slots, layer.heads, capacity, dim, dtype=layer.dtype, device=layer.device)

    def _resize(self, effect: Resize) -> None:
        for slab in (self.keys[effect.size_class], self.values[effect.size_class]):
            for index, layer in enumerate(self.layers):
                old = slab[index]
                new = self._empty(layer, effect.slots, old.shape[2], old.shape[3])
                kept = min(old.shape[0], effect.slots)
                new[:kept] = old[:kept]
                slab[index] = new

    def _copy(self, effect: Copy) -> None:
        for slabs in (self.keys, self.values):
            source, target = slabs[effect.from_class], slabs[effect.to_class]
            for a, b in zip(source, target, strict=True):
                b[effect.to_slot, :, : effect.tokens] = a[effect.from_slot, :, : effect.tokens]

    def _swap(self, size_class: int, a: int, b: int, tokens: int) -> None:
        for slabs in (self.keys, self.values):
            for tensor in slabs[size_class]:
                held = tensor[a, :, :tokens].clone()
                tensor[a, :, :tokens] = tensor[b, :, :tokens]
                tensor[b, :, :tokens] = held
