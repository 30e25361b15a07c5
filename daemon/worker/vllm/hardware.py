"""What vLLM is to run on, as far as its flags depend on it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import NamedTuple

from fcd.machine import Gpu, gpus

_TIMEOUT_S = 10


class Hardware(NamedTuple):
    gpus: tuple[Gpu, ...] = ()
    """Those that it may use."""
    capability: float = 0.0
    """The lowest compute capability among them, such as 9.0; 0 is not known."""


def look(probe: Callable[[], list[Gpu]] = gpus) -> Hardware:
    """Blocks: asks the driver."""
    found = probe()
    return Hardware(tuple(found), _capability([gpu.uuid for gpu in found]) if found else 0.0)


def read_capability(output: str, uuids: list[str]) -> float:
    """The lowest of the driver tool's lines `uuid, capability` that is about these GPUs."""
    found: list[float] = []
    for line in output.splitlines():
        uuid, _, text = (part.strip() for part in line.partition(","))
        if uuid in uuids:
            try:
                found.append(float(text))
            except ValueError:
                continue
    return min(found, default=0.0)


def _capability(uuids: list[str]) -> float:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0.0
    try:
        done = subprocess.run(
            [tool, "--query-gpu=uuid,compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0.0
    return read_capability(done.stdout, uuids)
