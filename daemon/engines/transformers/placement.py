"""Which devices a model is spread over: `--num-gpus`, `--gpus`, `--max-gpu-memory` and offload, through accelerate."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from daemon.engines.base import LoadOptions
from fcd.errors import ModelLoadError

log = logging.getLogger("fcd.engine")

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_KV_SHARE = 0.8
"""Without a limit from the user, weights take at most this much of a GPU's free memory: the rest is for KV."""
_OVERHEAD = 3 << 29
"""Under a limit from the user: what CUDA itself, a step's intermediate results and its graphs take."""
_WEIGHTS_UNDER_LIMIT = 0.85
"""The weights' share of the rest; what they leave is for KV."""


@dataclass(frozen=True)
class Placement:
    """What from_pretrained gets: `device_map`, and `max_memory` when the model is spread."""

    device: torch.device
    """Where the first layer and the KV store's budget live."""
    arguments: dict[str, Any] = field(default_factory=dict)


def place(options: LoadOptions, device: torch.device) -> Placement:
    """Decide where the weights go.

    Raises:
        ModelLoadError: GPUs were asked for that are not here, or a value cannot be read.
    """
    limit = parse_bytes(options.max_gpu_memory) if options.max_gpu_memory else 0
    wanted = parse_gpus(options.gpus)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type != "cuda":
        if wanted or options.num_gpus > 1:
            raise ModelLoadError(
                f"GPUs were asked for, but the model would run on '{device.type}', which has none.",
                hint="Leave out --gpus and --num-gpus, or use --device cuda on a machine with CUDA.",
            )
        if limit:
            log.warning(
                "--max-gpu-memory %s does nothing on '%s', which is no GPU", options.max_gpu_memory, device.type
            )
        return Placement(device, {"device_map": {"": device}})
    chosen = wanted or list(range(options.num_gpus or 1))
    if max(chosen) >= count:
        raise ModelLoadError(
            f"GPU {max(chosen)} was asked for, but this machine has {count}.", hint=f"Use GPUs 0 to {count - 1}."
        )
    if options.num_gpus and wanted and len(wanted) != options.num_gpus:
        raise ModelLoadError(
            f"--num-gpus {options.num_gpus} and --gpus {options.gpus} name different numbers of GPUs.",
            hint="Give one of the two.",
        )
    first = device if device.index is not None and not wanted else torch.device("cuda", chosen[0])
    if len(chosen) == 1 and not limit:
        return Placement(first, {"device_map": {"": first}})
    memory: dict[int | str, int] = {
        i: weights_limit(limit) or int(torch.cuda.mem_get_info(i)[0] * _KV_SHARE) if i in chosen else 0
        for i in range(count)
    }
    memory["cpu"] = int(psutil.virtual_memory().available * 0.9)
    return Placement(first, {"device_map": "auto", "max_memory": memory})


def weights_limit(limit: int) -> int:
    """Bytes of weights on one GPU when everything there may take `limit`; 0 without a limit."""
    return max(1, int((limit - _OVERHEAD) * _WEIGHTS_UNDER_LIMIT)) if limit else 0


def gpu_kv_bytes(limit: int, free: int, allocated: int) -> int:
    """Bytes for the KV cache of a GPU.

    Args:
        limit: what the user allows for everything on it; 0 is no limit.
        free: what is free on it now; allocated: what the weights take already.
    """
    share = int(free * _KV_SHARE)
    return min(share, max(0, limit - _OVERHEAD - allocated)) if limit else share


def left_in_memory(weights: int, placement: Placement) -> int:
    """About how many bytes of the weights do not fit on the GPUs, and are kept in main memory."""
    memory = placement.arguments.get("max_memory")
    if memory is None:
        return 0
    return max(0, weights - sum(int(size) for name, size in memory.items() if name != "cpu"))


def parse_bytes(text: str) -> int:
    """`8GiB`, `800 MB`, `123` (bytes).

    Raises:
        ModelLoadError: not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS:
        raise ModelLoadError(f"'{text}' is not an amount of memory.", hint="Write it as 8GiB or 800MiB.")
    return int(float(match.group(1)) * _UNITS[unit])


def parse_gpus(text: str) -> list[int]:
    """`0,1` as numbers.

    Raises:
        ModelLoadError: not a list of GPU numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise ModelLoadError(f"'{text}' is not a list of GPU numbers.", hint="Write it as 0,1.")
    return [int(part) for part in parts]
