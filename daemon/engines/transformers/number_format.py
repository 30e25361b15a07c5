"""fp32 or bf16 on a CPU: which one this machine computes a model's steps faster with, measured once and kept.

Half the bytes make bf16 the faster one where there are instructions for it, and on some machines without; on others it
is emulated and several times slower. The rule, for a checkpoint of 16 bits and no `--dtype`:

1. bf16 where fp32 would not fit into the memory that is free: it takes half.
2. Else what is faster for products of the model's own shape, over 1, 8 and 64 rows alike.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from fcd.machine import fp32_fits

log = logging.getLogger("fcd.engine")

ROWS = (1, 8, 64)
"""Of a step: one chat, several, and a piece of a prompt."""
_READ = 64 * 2**20
"""Bytes of weights that are multiplied in a turn, so that no cache holds what a model's would not."""
_LARGEST = 4096

TimeOf = Callable[[torch.dtype, int], float]
"""Seconds for products with so many rows."""


def choose_on_cpu(
    config: Any, weights: int, available: int, cache: Path | None, time_of: TimeOf | None = None
) -> torch.dtype:
    """fp32 or bf16 for a model whose files hold 16-bit numbers.

    Args:
        weights: bytes of the files.
        available: bytes of memory that are free.
        cache: the file that keeps what was measured; None measures each time.
    """
    if not fp32_fits(weights, available):
        log.info("bfloat16, for in float32 the weights would not fit into the memory that is free")
        return torch.bfloat16
    shape = _shape(config)
    count = max(1, min(2 * weights, _READ) // (4 * shape[0] * shape[1]))
    key = f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {shape[0]}x{shape[1]}x{count}"
    kept = _read(cache)
    if kept.get(key) not in ("float32", "bfloat16"):
        measure = time_of or _timer(shape, count)
        kept[key] = "bfloat16" if ratio(measure) <= 1 else "float32"
        _write(cache, kept)
        log.info("%s is the faster one here", kept[key])
    return torch.bfloat16 if kept[key] == "bfloat16" else torch.float32


def ratio(time_of: TimeOf) -> float:
    """How many times as long bf16 takes: the geometric mean over ROWS."""
    logs = [math.log(time_of(torch.bfloat16, rows) / time_of(torch.float32, rows)) for rows in ROWS]
    return math.exp(sum(logs) / len(logs))


def _shape(config: Any) -> tuple[int, int]:
    """Outputs and inputs of the model's most common product, about."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 1024)
    wide = getattr(text, "intermediate_size", 0) or getattr(text, "d_ff", 0) or 4 * width
    wide = max(wide) if isinstance(wide, list | tuple) else wide
    return min(int(wide), _LARGEST), min(width, _LARGEST)


def _timer(shape: tuple[int, int], count: int) -> TimeOf:
    weights = [torch.randn(shape) for _ in range(count)]
    held = {torch.float32: weights, torch.bfloat16: [weight.bfloat16() for weight in weights]}

    @torch.inference_mode()
    def time_of(dtype: torch.dtype, rows: int) -> float:
        x = torch.randn(rows, shape[1]).to(dtype)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            for weight in held[dtype]:
                F.linear(x, weight)
            best = min(best, time.perf_counter() - start)
        return best

    return time_of


def _processor() -> str:
    probe = getattr(torch.cpu, "get_capabilities", None)
    features = probe() if probe is not None else {}
    return f"{features.get('cpu_name', 'CPU')} ({torch.backends.cpu.get_cpu_capability()})"


def _read(cache: Path | None) -> dict[str, Any]:
    try:
        found = json.loads(cache.read_text(encoding="utf-8")) if cache is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(cache: Path | None, kept: dict[str, Any]) -> None:
    """Nothing is lost where it cannot be written: it is measured again."""
    if cache is None:
        return
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        temporary = cache.with_name(f"{cache.name}.{time.monotonic_ns()}")
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temporary.replace(cache)
    except OSError as error:
        log.debug("what was measured cannot be kept: %s", error)
