"""Rows scaled for products with 8-bit weights, by a compiled kernel; see `scale_rows.py`."""

from __future__ import annotations

import ctypes
from functools import cache

import torch

from daemon.engines.transformers.kernels.loading import load_kernel
from daemon.engines.transformers.kernels.team import Team

_SIZE = 8
"""Of the kernel's table, whose module cannot be imported where there is no numba."""
LONE = 1 << 15
"""Up to so many numbers one thread is quicker than waking others."""


class RowScaler:
    """Holds nothing that changes: any thread may call it."""

    def __init__(self, team: Team, function: int) -> None:
        self._team = team
        self._function = function
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
        self._table = ctypes.c_int64 * _SIZE

    def __call__(
        self, x: torch.Tensor, top: float, least: float, bound: float
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Divide each row so that its largest value is `top`, or by `least` where that would take less.

        Args:
            x: `[rows, width]` in fp32, each row contiguous.
            bound: rows whose largest value is over so many times their norm are wide.

        Returns:
            The rows; their steps `[rows, 1]`; the numbers of the wide ones.
        """
        rows, width = x.shape
        out, steps = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(rows, 1)
        wide = (ctypes.c_int64 * rows)()
        limits = (ctypes.c_float * 3)(top, least, bound)
        addresses = (x.data_ptr(), x.stride(0), out.data_ptr(), steps.data_ptr())
        table = self._table(*addresses, ctypes.addressof(wide), ctypes.addressof(limits), rows, width)
        if rows * width <= LONE:
            self._alone(ctypes.addressof(table))
        else:
            self._team.run(self._function, ctypes.addressof(table), torch.get_num_threads())
        return out, steps, [row for row, found in enumerate(wide) if found]


@cache
def row_scaler() -> RowScaler | None:
    """None where there is none."""
    found = load_kernel("scale_rows")
    return None if found is None else RowScaler(*found)
