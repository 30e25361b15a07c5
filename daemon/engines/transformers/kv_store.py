"""The tensors behind the row pool: one K and one V slab per layer and size class."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from daemon.engines.transformers.address_space import AddressSpace, grows_in_place
from daemon.engines.transformers.rows import Copy, Effect, Resize, RowPool

_LINE = 64
"""Bytes of a cache line: heads begin on one."""


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

    Args:
        in_place: slabs grow where they are, where the system can do that, else a larger one is made and filled.
    """

    def __init__(self, layers: list[LayerSpec], pool: RowPool, *, in_place: bool = True) -> None:
        self.layers = layers
        self.pool = pool
        self.keys = [[self._empty(layer, 0, c.capacity, layer.key_dim) for layer in layers] for c in pool.classes]
        self.values = [[self._empty(layer, 0, c.capacity, layer.value_dim) for layer in layers] for c in pool.classes]
        self.version = 0
        """Another one whenever a slab has become another tensor."""
        self._in_place = in_place
        self._spaces: dict[tuple[int, int, int], AddressSpace | None] = {}
        """By class, K or V, and layer, once it has had a row; None where there is none and rows are copied."""

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
        shape = (slots, layer.heads, capacity, dim)
        if layer.device.type != "cpu":
            return torch.zeros(shape, dtype=layer.dtype, device=layer.device)
        return _untouched_zeros(shape, layer.dtype)

    def _resize(self, effect: Resize) -> None:
        self.version += 1
        for kind, slab in enumerate((self.keys[effect.size_class], self.values[effect.size_class])):
            for index, layer in enumerate(self.layers):
                old = slab[index]
                space = self._space(effect.size_class, kind, index, old)
                if space is not None:
                    slab[index] = space.rows(effect.slots)
                    space.give_back(effect.slots, old.shape[0])
                    continue
                new = self._empty(layer, effect.slots, old.shape[2], old.shape[3])
                kept = min(old.shape[0], effect.slots)
                # Only what is used: memory that nothing has touched yet is not there yet.
                new[:kept, :, : effect.tokens] = old[:kept, :, : effect.tokens]
                slab[index] = new

    def _space(self, size_class: int, kind: int, layer: int, slab: torch.Tensor) -> AddressSpace | None:
        """Where a slab can grow without being copied: growing ones would stop every stream for as long as that."""
        place = (size_class, kind, layer)
        if place not in self._spaces:
            found: AddressSpace | None = None
            if self._in_place and grows_in_place(slab.device):
                with contextlib.suppress(OSError):
                    found = AddressSpace(self.pool.most_rows(size_class), tuple(slab.shape[1:]), slab.dtype)
            self._spaces[place] = found
        return self._spaces[place]

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


def _untouched_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros that the operating system makes page by page as they are used; torch.zeros writes all of them at once."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.zeros(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return torch.from_numpy(raw[start : start + size]).view(dtype).view(shape)
