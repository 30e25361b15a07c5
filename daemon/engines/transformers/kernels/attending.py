"""Attention of decoding rows by a compiled kernel, as the engine calls it; see `decode_attention.py`."""

from __future__ import annotations

import ctypes
import logging
import struct

import torch

from daemon.engines.transformers.kernels.loading import load_kernel
from daemon.engines.transformers.kernels.team import Team

log = logging.getLogger("fcd.engine")
_KINDS = {torch.float32: "fp32", torch.float16: "fp16"}
_SIZE = 27
"""Of the kernel's table, whose module cannot be imported where there is no numba."""


class DecodeAttention:
    """On a slab of the store."""

    def __init__(self, team: Team, function: int, stored: torch.dtype) -> None:
        self._team = team
        self._function = function
        self.stored = stored
        self._pack = struct.Struct(f"{_SIZE}q").pack_into
        self._table = (ctypes.c_int64 * _SIZE)()
        self._scales: dict[float, torch.Tensor] = {}
        self._scratch = torch.empty(0)

    def fits(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor) -> bool:
        """Whether these are of the kind that it computes: fp32 on the CPU, each head's numbers side by side, and the
        store of its type."""
        return (
            q.dtype is k.dtype is v.dtype is torch.float32
            and keys.dtype is self.stored
            and q.stride(2) == k.stride(2) == v.stride(2) == 1
            and keys.is_cpu
        )

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        at: torch.Tensor,
        longest: int,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """Write K and V and attend; what `fits`, from one thread at a time.

        Args:
            q: `[rows, heads, dim]`; k and v `[rows, kv_heads, dim]`.
            keys: the slab `[slots, kv_heads, capacity, dim]`, and values the same.
            at: `[2, rows]`, contiguous int64: the rows' slots and positions.
            longest: one more than the largest position.

        Returns:
            `[rows, heads, value_dim]`.
        """
        rows, heads, key_dim = q.shape
        kv_heads, value_dim = v.shape[1], v.shape[2]
        threads = torch.get_num_threads()
        if self._scratch.numel() < threads * longest:
            self._scratch = torch.empty(threads * 2 * longest, dtype=torch.float32, device="cpu")
        factor = self._scales.get(scale)
        if factor is None:
            factor = self._scales[scale] = torch.tensor([scale], dtype=torch.float32)
        out = torch.empty(rows, heads, value_dim, dtype=torch.float32, device="cpu")
        places = at.data_ptr()
        self._pack(
            self._table,
            0,
            *(q.data_ptr(), q.stride(0), q.stride(1)),
            *(k.data_ptr(), k.stride(0), k.stride(1)),
            *(v.data_ptr(), v.stride(0), v.stride(1)),
            *(keys.data_ptr(), keys.stride(0), keys.stride(1)),
            *(values.data_ptr(), values.stride(0), values.stride(1)),
            *(places, places + 8 * rows),
            *(rows, kv_heads, heads // kv_heads, key_dim, value_dim, window or 0),
            *(out.data_ptr(), self._scratch.data_ptr(), self._scratch.numel() // threads, factor.data_ptr()),
        )
        self._team.run(self._function, ctypes.addressof(self._table), threads)
        return out


def load_decode_attention(stored: torch.dtype) -> DecodeAttention | None:
    """For a store of this type; None where there is none, or where it does not compute what PyTorch does."""
    if stored not in _KINDS:
        return None
    found = load_kernel("decode_attention", _KINDS[stored])
    kernel = None if found is None else DecodeAttention(*found, stored)
    if kernel is not None and not _agrees(kernel):
        log.warning("the compiled attention differs from PyTorch's here; it is not used")
        return None
    return kernel


def _agrees(kernel: DecodeAttention) -> bool:
    """By one row of random numbers."""
    draw = torch.Generator().manual_seed(0)
    q, k, v, keys, values = (
        torch.randn(shape, generator=draw, dtype=torch.float32)
        for shape in ((1, 4, 32), (1, 2, 32), (1, 2, 32), (1, 2, 48, 32), (1, 2, 48, 32))
    )
    keys, values = keys.to(kernel.stored), values.to(kernel.stored)
    got = kernel(q, k, v, keys, values, torch.tensor([[0], [40]]), 41, 0.2, None)
    seen, mixed = keys[0, :, :41].float(), values[0, :, :41].float()
    want = (q.view(2, 2, 32) @ seen.transpose(1, 2) * 0.2).softmax(-1) @ mixed
    return torch.allclose(got.view(2, 2, 32), want, atol=1e-4)
