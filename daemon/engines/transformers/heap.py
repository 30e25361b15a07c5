"""Give memory that loading used and freed back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALONE = 1 << 20
"""Bytes: while weights are loaded, blocks from this size on are mapped by themselves."""
_USUAL = 32 << 20
"""What glibc's own limit grows to as blocks are freed."""


@contextmanager
def separate_blocks() -> Iterator[None]:
    """Let each large block go back to the system when it is freed, where the C library is glibc.

    A checkpoint's tensors are read and freed between blocks that stay; on a common heap they would leave holes, which
    took as much again as the weights. Afterwards large blocks are kept for the next step, as usual.
    """
    adjust = _function("mallopt")
    if adjust is not None:
        adjust(_MMAP_THRESHOLD, _ALONE)
    try:
        yield
    finally:
        if adjust is not None:
            adjust(_MMAP_THRESHOLD, _USUAL)
            adjust(_TRIM_THRESHOLD, 2 * _USUAL)
        trim_heap()


def trim_heap() -> None:
    """Give back what lies free between blocks in use; elsewhere than on Linux nothing is done."""
    gc.collect()
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
