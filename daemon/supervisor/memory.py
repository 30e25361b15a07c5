"""Free memory: of the machine, and of each of its NVIDIA GPUs as the driver tells it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import psutil

from daemon.scheduler.placement import CPU
from fcd.machine import Gpu, GpuProbe

MemoryProbe = Callable[[], Mapping[str, int]]
"""Bytes free on each device: `cpu`, and the GPUs by UUID in CUDA's order."""


class MachineMemory:
    """The devices of this machine. GPUs are as they were at the last `refresh`; RAM is read each time."""

    def __init__(self, probe: Callable[[], list[Gpu]] | None = None) -> None:
        self.probe = probe or GpuProbe()
        self.gpus: list[Gpu] = []

    def __call__(self) -> Mapping[str, int]:
        free = {CPU: int(psutil.virtual_memory().available)}
        return free | {gpu.uuid or f"GPU-{gpu.number}": gpu.free_bytes for gpu in self.gpus}

    @property
    def totals(self) -> Mapping[str, int]:
        """Bytes that each GPU has in all."""
        return {gpu.uuid or f"GPU-{gpu.number}": gpu.total_bytes for gpu in self.gpus}

    async def refresh(self) -> None:
        """Ask the GPUs again; quick where there are none."""
        # A probe that fails for once says nothing about what is there.
        self.gpus = await asyncio.to_thread(self.probe) or self.gpus
