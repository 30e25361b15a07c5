"""How many threads PyTorch gets."""

from __future__ import annotations

import os

import psutil

from fcd.errors import ModelLoadError


def choose_threads(environment: str | None = None) -> int:
    """`FCD_TORCH_THREADS`, else the physical cores that this process may run on.

    Raises:
        ModelLoadError: the variable is not a positive number.
    """
    text = os.environ.get("FCD_TORCH_THREADS", "") if environment is None else environment
    if text:
        if not text.isdigit() or int(text) < 1:
            raise ModelLoadError(
                f"FCD_TORCH_THREADS is {text!r}, not a number of threads.", hint="Unset it or give 1 or more."
            )
        return int(text)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical))
