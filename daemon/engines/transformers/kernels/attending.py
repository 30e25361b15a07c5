"""The kernels as the engine calls them, where this machine can have them."""

from __future__ import annotations

import logging
import struct

import torch

from daemon.engines.transformers.kernels.team import Team, find_team

log = logging.getLogger("fcd.engine")


class DecodeAttention:
    """Attention of rows that decode, on a slab of the store; see `decode_attention.py`."""

    def __init__(self, team: Team, function: int, size: int) -> None:
        self._team = team
        self._function = function
        self._pack = struct.Struct(f"{size}q").pack_into
        self._table = torch.zeros(size, dtype=torch.int64)
        self._bytes = memoryview(self._table.numpy()).cast("B")
        self._scales: dict[float, torch.Tensor] = {}
        self._scratch = torch.empty(0)

    @staticmethod
    def fits(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor) -> bool:
        """Whether these are of the kind that it computes: fp32 on the CPU, each head's numbers side by side."""
        return (
            q.dtype is k.dtype is v.dtype is keys.dtype is torch.float32
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
        """Write K and V and attend. All in fp32, the last dimensions contiguous; one calling thread.

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
            self._scratch = torch.empty(threads * 2 * longest)
        factor = self._scales.get(scale)
        if factor is None:
            factor = self._scales[scale] = torch.tensor([scale], dtype=torch.float32)
        out = torch.empty(rows, heads, value_dim)
        places = at.data_ptr()
        self._pack(
            self._bytes,
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
        self._team.run(self._function, self._table.data_ptr(), threads)
        return out


def load_decode_attention() -> DecodeAttention | None:
    """Compile it, or read it from where it was kept; None where numba or PyTorch's threads cannot be had."""
    team = find_team()
    if team is None:
        return None
    try:
        from daemon.engines.transformers.kernels.compiling import prepare

        prepare(team)
        from daemon.engines.transformers.kernels import decode_attention as compiled
    except ImportError as error:
        log.info("no compiled kernels: %s", error)
        return None
    return DecodeAttention(team, compiled.decode_attention.address, compiled.SIZE)
