"""Memory for a slab that grows in place: address space for all its rows at once, pages only for those in use."""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path

import torch

_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
_STRICT = "2"
"""Linux counts all address space as memory."""


def grows_in_place(device: torch.device) -> bool:
    """Whether this system gives address space without counting it as memory, and takes single pages back."""
    if device.type != "cpu" or sys.platform != "linux":
        return False
    try:
        return _OVERCOMMIT.read_text().strip() != _STRICT
    except OSError:
        return False


class AddressSpace:
    """Room for `most` rows of one shape. What nobody has written is zero.

    Raises:
        OSError: the system gives no such stretch of addresses.
    """

    def __init__(self, most: int, row: tuple[int, ...], dtype: torch.dtype) -> None:
        self._row_bytes = math.prod(row) * dtype.itemsize
        try:
            self._map = mmap.mmap(-1, most * self._row_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (ValueError, OverflowError) as error:
            raise OSError(str(error)) from None
        self._rows = torch.frombuffer(self._map, dtype=dtype).view(most, *row)

    def rows(self, count: int) -> torch.Tensor:
        """The first `count` rows, which stay where they are however the number changes."""
        return self._rows[:count]

    def give_back(self, first: int, end: int) -> None:
        """Let the system have the memory of these rows; they are zero when they are next used."""
        page = mmap.PAGESIZE
        start = -(-first * self._row_bytes // page) * page
        length = end * self._row_bytes // page * page - start
        if length > 0:
            self._map.madvise(mmap.MADV_DONTNEED, start, length)
