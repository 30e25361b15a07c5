"""Layers whose weights keep a checkpoint's 16 bits while everything else is computed in fp32.

On CPUs without bf16 instructions a product in bf16 is emulated, and one in fp32 reads twice the bytes. The compiled
products read 16-bit weights, widen them in registers and compute in fp32 (see `kernels/panels.py`).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from daemon.engines.transformers.kernels.multiplying import multiplier
from daemon.engines.transformers.kernels.panels import KINDS, pack
from daemon.engines.transformers.lowbit import LowBitLinear, LowBitTable


def half_is_supported(stored: torch.dtype = torch.bfloat16) -> bool:
    """Whether this machine has the kernels for weights of a format; the first time on it takes seconds."""
    return stored in KINDS and multiplier(KINDS[stored]) is not None


class HalfLinear(LowBitLinear):
    """A linear layer over the checkpoint's own 16 bits.

    Args:
        stored: their format.
    """

    packs = True

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype, transposed: bool, stored: torch.dtype
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed)
        self.stored = stored

    def take(self, weight: torch.Tensor) -> None:
        matrix = weight.T if self.transposed else weight
        self.hold_panels(pack(matrix.to(self.stored), KINDS[self.stored]))


class HalfEmbedding(LowBitTable):
    """An embedding table in the checkpoint's own 16 bits; where an output layer has the same weights, in that.

    Args:
        stored: their format.
    """

    table: torch.Tensor

    def __init__(self, count: int, dim: int, *, dtype: torch.dtype, factor: float | None, stored: torch.dtype) -> None:
        super().__init__(count, dim, dtype=dtype, factor=factor)
        self.stored = stored

    def take(self, weight: torch.Tensor) -> None:
        self.take_table(weight.to(self.stored))

    def take_table(self, table: torch.Tensor) -> None:
        """Use this table `[count, dim]`, which another layer may hold too."""
        self.register_buffer("table", table)
        self.stand_in(table.device)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self.table)
