"""How many threads PyTorch gets: what the user says, else what a step of the loaded model is fastest with."""

from __future__ import annotations

import os
from collections.abc import Callable

import psutil
import torch

from daemon.engines.transformers.spinning import Spinning
from fcd.errors import ModelLoadError

_GAIN = 0.9
"""In a small step more threads must save this much, or fewer are kept: the rest of the machine can use the others."""
_ALL_GAIN = 0.75
"""All of them must save this much there: what else runs, and if only to bring the requests, would hold up each."""
_LOSS = 1.4
"""In a large one they may seem to cost this much: what was measured on a busy machine will be less once it is quiet."""
_LARGE = 48
_HOPELESS = 1.5
"""Where more threads take this much longer, still more are not tried."""
SIZES = (2, 8, 48, 256)
"""Tokens of a step, as measured; a step gets what the next larger size was fastest with."""


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


def is_fixed() -> bool:
    """Whether the user has set the number of threads."""
    return bool(os.environ.get("FCD_TORCH_THREADS"))


class ThreadPlan:
    """How many threads a step of so many tokens gets: `steps` are (most tokens, threads), the last without limit.

    Args:
        spinning: what is asked before each step whether idle threads spin.
    """

    def __init__(self, steps: list[tuple[int, int]], spinning: Spinning | None = None) -> None:
        self._steps = steps
        self._spinning = spinning

    def threads(self, tokens: int) -> int:
        return next((threads for most, threads in self._steps if tokens <= most), self._steps[-1][1])

    def begin(self, tokens: int) -> None:
        """Give the calling thread's next step of so many tokens its threads."""
        if self._spinning is not None:
            self._spinning.look()
        count = self.threads(tokens)
        if count != torch.get_num_threads():
            torch.set_num_threads(count)


def measure_plan(limit: int, time_of: Callable[[int, int], float], spinning: Spinning | None = None) -> ThreadPlan:
    """The number of threads that a step takes least with, for a few sizes of step.

    Args:
        limit: the most threads to use.
        time_of: seconds for a step with so many threads and so many tokens.
    """
    counts = sorted({*(1 << n for n in range(limit.bit_length()) if 1 << n <= limit), max(1, limit - 1), limit})
    steps: list[tuple[int, int]] = []
    for tokens in SIZES:
        steps.append((tokens, _fastest(counts, tokens, time_of, limit)))
        # A larger step has more for each thread to do: it never wants fewer.
        counts = [count for count in counts if count >= steps[-1][1]]
    return ThreadPlan(steps, spinning)


def _fastest(counts: list[int], tokens: int, time_of: Callable[[int, int], float], limit: int) -> int:
    best, least = counts[0], time_of(counts[0], tokens)
    for count in counts[1:]:
        taken = time_of(count, tokens)
        enough = _LOSS if tokens >= _LARGE else _GAIN if count < limit else _ALL_GAIN
        if taken < least * enough:
            best, least = count, taken
        elif taken > least * _HOPELESS:
            break
    return best
