"""Free memory: of the machine, and of its NVIDIA GPUs as their own tool tells it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Mapping

import psutil

MemoryProbe = Callable[[], Mapping[str, int]]

_TOOL_TIMEOUT_S = 10.0


class MachineMemory:
    """Bytes free in each pool: `cpu`, and `cuda` (all GPUs together) where there is one."""

    def __init__(self) -> None:
        self._tool = shutil.which("nvidia-smi")
        self._cuda: int | None = None

    @property
    def has_gpu(self) -> bool:
        return self._cuda is not None

    def __call__(self) -> Mapping[str, int]:
        free = {"cpu": int(psutil.virtual_memory().available)}
        if self._cuda is not None:
            free["cuda"] = self._cuda
        return free

    async def refresh(self) -> None:
        """Ask the GPUs again; quick where there are none."""
        if self._tool is not None:
            self._cuda = await asyncio.to_thread(_free_on_gpus, self._tool)


def _free_on_gpus(tool: str) -> int | None:
    command = [tool, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=True)
        figures = [int(line) for line in done.stdout.split() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return sum(figures) * 2**20 if figures else None
