"""Weights as the compiled products read them: panels of sixteen columns, one after the other.

A panel holds `[depth][16]` of fp16 or bf16, the checkpoint's own bits, or `[depth / 2][16][2]` of int8 with an fp32
scale for each column. Columns are a layer's outputs; what is missing of the last panel, and of an odd depth, is zero.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

COLUMNS = 16
_BLOCK = 1 << 20
"""Weights that are packed at a time: what lies between stays in the cache."""
_LEAST = 1e-12
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
KINDS = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(slots=True)
class Panels:
    """Packed weights `[columns, depth]`."""

    kind: str
    columns: int
    depth: int
    data: torch.Tensor
    """`[panels, depth, 16]`, or `[panels, depth / 2, 16, 2]` for int8."""
    scales: torch.Tensor | None = None
    """`[16 * panels]` for int8."""

    @property
    def panels(self) -> int:
        return self.data.shape[0]

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def places(self, bias: torch.Tensor | None) -> tuple[int, int, int, int, int]:
        """What stands for a product in a kernel's table."""
        scales = 0 if self.scales is None else self.scales.data_ptr()
        return self.data.data_ptr(), scales, 0 if bias is None else bias.data_ptr(), self.panels, self.depth

    def rows(self, numbers: torch.Tensor) -> torch.Tensor:
        """Some of the layer's columns, as rows: `[n, depth]` in fp32. An embedding that shares the output layer's
        weights reads them so."""
        panel, column = numbers // COLUMNS, numbers % COLUMNS
        if self.scales is None:
            return self.data[panel, :, column].float()
        found = self.data[panel, :, column].reshape(len(numbers), -1)[:, : self.depth]
        return found * self.scales[numbers, None]

    def unpacked(self) -> torch.Tensor:
        """`[columns, depth]` in fp32."""
        return self.rows(torch.arange(self.columns))


def pack(weight: torch.Tensor, kind: str) -> Panels:
    """Pack `[columns, depth]`; for int8 each column is rounded to 127 steps on each side of zero."""
    columns, depth = weight.shape
    panels = -(-columns // COLUMNS)
    if kind == "int8":
        data = weight_memory((panels, (depth + 1) // 2, COLUMNS, 2), torch.int8)
        scales = torch.zeros(panels * COLUMNS, dtype=torch.float32)
    else:
        data, scales = weight_memory((panels, depth, COLUMNS), _DTYPES[kind]), None
    step = max(1, _BLOCK // (depth * COLUMNS))
    for first in range(0, panels, step):
        block = weight[first * COLUMNS : (first + step) * COLUMNS]
        if scales is not None:
            block, scale = _rounded(block.float())
            scales[first * COLUMNS : first * COLUMNS + len(scale)] = scale
        _place(block, data[first : first + step])
    return Panels(kind, columns, depth, data, scales)


def joined(parts: Sequence[Panels]) -> Panels | None:
    """One below the other; None where a part does not fill its last panel."""
    first = parts[0]
    if any(part.columns % COLUMNS or part.kind != first.kind for part in parts):
        return None
    data = weight_memory((sum(part.panels for part in parts), *first.data.shape[1:]), first.data.dtype)
    torch.cat([part.data for part in parts], out=data)
    found = [part.scales for part in parts if part.scales is not None]
    return Panels(first.kind, sum(p.columns for p in parts), first.depth, data, torch.cat(found) if found else None)


def weight_memory(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Zeros in memory of their own, which goes back to the system with them, in huge pages where it has them."""
    size = dtype.itemsize
    for each in shape:
        size *= each
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        space = mmap.mmap(-1, max(size, 1), **private)
    except OSError as error:
        raise MemoryError(f"{size / 2**20:.0f} MiB for weights: {error}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # The system's own kernel may have been built without.
        with contextlib.suppress(OSError):
            space.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(space, dtype=dtype, count=size // dtype.itemsize).view(*shape)


def _rounded(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = block.abs().amax(1).clamp_min_(_LEAST) / 127.0
    return (block / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def _place(block: torch.Tensor, data: torch.Tensor) -> None:
    """Columns `[n, depth]` into the panels from `data` on, which are zero."""
    whole = len(block) // COLUMNS
    panels = block[: whole * COLUMNS].reshape(whole, COLUMNS, block.shape[1])
    rest = block[whole * COLUMNS :]
    if data.dim() == 3:
        data[:whole].copy_(panels.transpose(1, 2))
        if len(rest):
            data[whole, :, : len(rest)] = rest.T
        return
    pairs = data.shape[1]
    full = block.shape[1] // 2
    data[:whole, :full].copy_(panels[:, :, : 2 * full].reshape(whole, COLUMNS, full, 2).transpose(1, 2))
    if len(rest):
        data[whole, :full, : len(rest)] = rest[:, : 2 * full].reshape(len(rest), full, 2).transpose(0, 1)
    if pairs > full:
        data[:whole, full, :, 0] = panels[:, :, -1]
        if len(rest):
            data[whole, full, : len(rest), 0] = rest[:, -1]
