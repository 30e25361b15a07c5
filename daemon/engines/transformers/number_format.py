"""Which numbers a CPU computes a model's steps in: fp32, bf16, or fp32 over packed 16-bit weights.

Half the bytes make 16-bit weights the faster ones where the CPU has instructions for them, and on some machines
without; on others bf16 is emulated and several times slower. The rules, for a checkpoint of 16 bits:

1. Where there are compiled products for 16-bit weights (see `half`), weights stay in 16 bits unless `--dtype float32`
   is given: they compute in fp32 as well, and read half the bytes. They are measured against plain bf16, or
   against the format that `--dtype` names, which the activations then have.
2. Elsewhere, without `--dtype`: bf16 where fp32 would not fit into the free memory, else what is faster of both.

What is measured are products of the model's own shape, over 1, 8 and 64 rows alike; it is done once and kept.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from daemon.engines.transformers.half import half_is_supported
from daemon.engines.transformers.kernels.multiplying import multiplier
from daemon.engines.transformers.kernels.panels import KINDS, pack
from fcd.machine import PACKED_HALF, fp32_fits

log = logging.getLogger("fcd.engine")

ROWS = (1, 8, 64)
"""Of a step: one chat, several, and a piece of a prompt."""
_READ = 64 * 2**20
"""Bytes of weights that are multiplied in a turn, so that no cache holds what a model's would not."""
_LARGEST = 4096
_LONG = 0.5
"""Seconds: what takes longer is timed once."""
PACKED = "packed 16-bit weights"
"""Activations in fp32."""

TimeOf = Callable[[str, int], float]
"""Seconds for products with so many rows, in a format named as torch does, or PACKED."""


class NumberFormat(NamedTuple):
    dtype: torch.dtype
    """Of the activations and the KV cache, and of the weights unless they are packed."""
    packed: bool = False
    """Weights are kept in their 16 bits, packed."""

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return PACKED_HALF if self.packed and self.dtype == torch.float32 else name


def choose_on_cpu(
    config: Any,
    weights: int,
    available: int,
    cache: Path | None,
    wanted: torch.dtype | None = None,
    time_of: TimeOf | None = None,
    has_packed: bool | None = None,
    stored: torch.dtype = torch.bfloat16,
) -> NumberFormat:
    """The format for a model whose files hold 16-bit numbers.

    Args:
        weights: bytes of the files.
        available: bytes of memory that are free.
        cache: the file that keeps what was measured; None measures each time.
        wanted: what `--dtype` names; None leaves it to this function.
        has_packed: whether there are compiled products for 16-bit weights; None tries.
        stored: what the files hold.
    """
    if wanted == torch.float32:
        return NumberFormat(wanted)
    if half_is_supported(stored) if has_packed is None else has_packed:
        plain = wanted or torch.bfloat16
        found = _measured([PACKED, _name(plain)], config, weights, cache, time_of, KINDS[stored])
        return NumberFormat(wanted or torch.float32, packed=True) if found == PACKED else NumberFormat(plain)
    if wanted is not None:
        return NumberFormat(wanted)
    if not fp32_fits(weights, available):
        log.info("bfloat16, for in float32 the weights would not fit into the memory that is free")
        return NumberFormat(torch.bfloat16)
    return NumberFormat(getattr(torch, _measured(["float32", "bfloat16"], config, weights, cache, time_of)))


def _measured(
    kinds: list[str], config: Any, weights: int, cache: Path | None, time_of: TimeOf | None, packed: str = ""
) -> str:
    """The fastest of these kinds of product, from the cache or by measuring; `packed` is which weights are packed."""
    shape = _shape(config)
    count = max(1, min(2 * weights, _READ) // (4 * shape[0] * shape[1]))
    key = (
        f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {shape[0]}x{shape[1]}x{count}: "
        + " or ".join(kinds)
    )
    kept = _read(cache)
    if kept.get(key) not in kinds:
        kept[key] = fastest(kinds, time_of or _timer(kinds, shape, count, packed))
        _write(cache, kept)
        log.info("%s is the faster kind of %s here", kept[key], " and ".join(kinds))
    return str(kept[key])


def fastest(kinds: list[str], time_of: TimeOf) -> str:
    """The kind with the least geometric mean over ROWS; of equal ones the last."""
    means = {kind: sum(math.log(time_of(kind, rows)) for rows in ROWS) for kind in kinds}
    return min(reversed(kinds), key=lambda kind: means[kind])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(config: Any) -> tuple[int, int]:
    """Outputs and inputs of the model's most common product, about."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    width = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 1024)
    wide = getattr(text, "intermediate_size", 0) or getattr(text, "d_ff", 0) or 4 * width
    wide = max(wide) if isinstance(wide, list | tuple) else wide
    return min(int(wide), _LARGEST), min(width, _LARGEST)


def _timer(kinds: list[str], shape: tuple[int, int], count: int, packed: str) -> TimeOf:
    drawn = [torch.randn(shape) for _ in range(count)]

    def prepare(kind: str) -> tuple[list[Any], torch.dtype, Callable[[torch.Tensor, Any], torch.Tensor]]:
        if kind == PACKED:
            compiled = multiplier(packed)
            assert compiled is not None
            return [pack(weight, packed) for weight in drawn], torch.float32, compiled
        dtype = getattr(torch, kind)
        return [weight.to(dtype) for weight in drawn], dtype, F.linear

    held = {kind: prepare(kind) for kind in kinds}
    drawn.clear()

    @torch.inference_mode()
    def time_of(kind: str, rows: int) -> float:
        weights, dtype, product = held[kind]
        x = torch.randn(rows, shape[1]).to(dtype)
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            for weight in weights:
                product(x, weight)
            best = min(best, time.perf_counter() - start)
            if best > _LONG:
                break
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
