"""Linear layers whose weights are fp16, packed for FBGEMM's kernels, while everything else stays as it is.

On x86 CPUs without bf16 instructions a product in bf16 is emulated, and one in fp32 reads twice the bytes. These
kernels read fp16 weights, widen them in registers and compute in fp32. Weights of a bf16 checkpoint are exact in fp16
except those below 6e-5, which move by less than 3e-8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from daemon.engines.transformers.lowbit import LowBit, LowBitLinear, join_layers

_LARGEST = 65504.0


def half_is_supported() -> bool:
    """Whether this machine has the kernels: x86 with AVX2."""
    return "fbgemm" in torch.backends.quantized.supported_engines


def pack_half(weight: torch.Tensor) -> Any:
    """Pack `[out, in]`; every value must be one that fp16 can hold."""
    torch.backends.quantized.engine = "fbgemm"
    return torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), None)


def unpack_half(packed: Any) -> torch.Tensor:
    """The weights `[out, in]` in fp32."""
    weight: torch.Tensor = torch.ops.quantized.linear_unpack_fp16(packed)[0]
    return weight.float()


def half_product(rows: torch.Tensor, packed: Any) -> torch.Tensor:
    """`rows [n, in]` times packed weights: `[n, out]` in fp32."""
    out: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows.float().contiguous(), packed)
    return out


def fits_half(weight: torch.Tensor) -> bool:
    """Whether every weight is finite and within fp16's range."""
    low, high = torch.aminmax(weight)
    return bool(low >= -_LARGEST) and bool(high <= _LARGEST)


class HalfLinear(LowBitLinear):
    """Packed fp16 weights; where fp16 cannot hold a weight, all of the layer's stay as they came (`whole`)."""

    whole: torch.Tensor | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype, transposed: bool) -> None:
        super().__init__(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed)
        self.register_buffer("whole", None)
        self.packed: Any = None

    @property
    def unseen_bytes(self) -> int:
        held = self.packed is not None or self.joined is not None
        return 2 * self.in_features * self.out_features if held else 0

    def take(self, weight: torch.Tensor) -> None:
        matrix = weight.T if self.transposed else weight
        if fits_half(matrix):
            self.packed = pack_half(matrix)
        else:
            self.whole = matrix.contiguous()
        self.stand_in(weight.device)

    def unpacked(self) -> torch.Tensor | None:
        """The weights `[out, in]` in fp32; None where they are not packed in this layer."""
        return None if self.packed is None else unpack_half(self.packed)

    def release(self) -> None:
        self.packed = None

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        if self.whole is not None:
            return F.linear(rows.to(self.whole.dtype), self.whole)
        return half_product(rows, self.packed)


def join_half(modules: list[HalfLinear]) -> HalfLinear | None:
    """One layer for several of the same input, which become parts of it; None where their weights are not packed."""
    parts = [module.unpacked() for module in modules]
    found = [part for part in parts if part is not None]
    if len(found) < len(modules):
        return None
    first = modules[0]
    whole = HalfLinear(first.in_features, 1, bias=False, dtype=first.dtype, transposed=False)
    whole.out_features = sum(module.out_features for module in modules)
    whole.take(torch.cat(found))
    join_layers(whole, modules)
    return whole


class HalfEmbedding(LowBit):
    """An embedding table in the checkpoint's own 16 bits.

    Args:
        stored: their format.
        factor: what the model's own embedding class multiplies by (Gemma), None for a plain one.
    """

    table: torch.Tensor

    def __init__(self, count: int, dim: int, *, dtype: torch.dtype, factor: float | None, stored: torch.dtype) -> None:
        super().__init__((count, dim), dtype)
        self.num_embeddings = count
        self.embedding_dim = dim
        self.scalar_embed_scale = factor
        self.stored = stored

    def take(self, weight: torch.Tensor) -> None:
        self.take_table(weight.to(self.stored))

    def take_table(self, table: torch.Tensor) -> None:
        """Use this table `[count, dim]`, which another layer may hold too."""
        self.register_buffer("table", table)
        self.stand_in(table.device)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = F.embedding(ids, self.table).to(self.dtype)
        factor = self.scalar_embed_scale
        return rows if factor is None else rows * torch.tensor(factor, dtype=self.dtype)
