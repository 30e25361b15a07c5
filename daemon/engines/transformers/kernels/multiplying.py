"""Products with packed weights by a compiled kernel, as layers call them; see `products.py` and `panels.py`."""

from __future__ import annotations

import ctypes
import logging
from functools import cache

import torch

from daemon.engines.transformers.kernels.loading import load_kernel
from daemon.engines.transformers.kernels.panels import COLUMNS, Panels, pack
from daemon.engines.transformers.kernels.team import Team

log = logging.getLogger("fcd.engine")
_SIZE = 11
"""Of the kernel's table, whose module cannot be imported where there is no numba."""
LONE = 1 << 17
"""Up to so many weights one thread is quicker than waking others."""


class Multiplier:
    """Holds nothing that changes: any thread may call it."""

    def __init__(self, team: Team, function: int) -> None:
        self.team = team
        self._function = function
        self._table = ctypes.c_int64 * _SIZE

    def __call__(self, x: torch.Tensor, weights: Panels) -> torch.Tensor:
        """`x [rows, depth]` times the weights: `[rows, columns]` in fp32.

        Args:
            x: fp32 on the CPU, each row's numbers side by side.
        """
        rows, depth = x.shape
        wide = COLUMNS * weights.panels
        threads = 1 if depth * wide <= LONE and rows == 1 else torch.get_num_threads()
        out = torch.empty(rows, wide, dtype=torch.float32, device="cpu")
        # For int8: the rows' steps, and the rows in 16 bits.
        size = rows * ((depth + 1) // 2 + 1) if weights.scales is not None else 0
        room = torch.empty(size, dtype=torch.float32, device="cpu")
        steps = room.data_ptr()
        places = (x.data_ptr(), x.stride(0), rows, out.data_ptr(), steps + 4 * rows, steps)
        table = self._table(*weights.places(None), *places)
        self.team.run(self._function, ctypes.addressof(table), threads)
        return out if wide == weights.columns else out[:, : weights.columns]


@cache
def multiplier(kind: str) -> Multiplier | None:
    """For weights of a kind; None where there is none, or where it does not compute what PyTorch does."""
    found = load_kernel("products", kind)
    kernel = None if found is None else Multiplier(*found)
    if kernel is not None and not _agrees(kernel, kind):
        log.warning("the compiled product with %s weights differs from PyTorch's here; it is not used", kind)
        return None
    return kernel


def _agrees(kernel: Multiplier, kind: str) -> bool:
    """By some rows of random numbers, an odd number of them deep."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 53, generator=draw, dtype=torch.float32)
    weights = pack(weight, kind)
    for rows in (1, 2, 3, 4, 5, 7, 12):
        x = torch.randn(rows, 53, generator=draw, dtype=torch.float32)
        if not torch.allclose(kernel(x, weights), x @ weights.unpacked().T, atol=1e-2):
            return False
    return True
