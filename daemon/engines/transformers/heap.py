"""Give memory that loading used and freed back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys


def trim_heap() -> None:
    """Packing frees many blocks of some megabytes each between others that stay; glibc keeps them unless asked.

    Elsewhere nothing is done.
    """
    gc.collect()
    if not sys.platform.startswith("linux"):
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
