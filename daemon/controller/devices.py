"""What the devices of this machine are doing, for people who watch: read when somebody asks, and not more often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import msgspec
import psutil

from daemon.scheduler.placement import CPU
from daemon.supervisor.memory import MachineMemory
from fcd.machine import Gpu, GpuProbe
from fcd.nvml import Card
from fcd.wire.devices import DeviceList, DeviceReading

FRESH_S = 1.0
"""A reading this young is given out again."""
WATCH_S = 2.0
"""Those who watch get one this often."""
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "acpitz")


class OurWorker(msgspec.Struct, frozen=True):
    """What is known here of one worker's memory."""

    pid: int
    memory: int
    """Bytes that it says it holds; 0 is not said."""
    devices: tuple[str, ...]
    """Where it was placed; empty where that was left to it."""


class Devices:
    """The readings. `workers` are those that this daemon started."""

    def __init__(self, machine: MachineMemory, workers: Callable[[], list[OurWorker]]) -> None:
        self._machine = machine
        self._workers = workers
        self._last = DeviceList([])
        self._read_at = float("-inf")
        self._asked_before = False
        self._reading: asyncio.Lock = asyncio.Lock()

    async def read(self) -> DeviceList:
        async with self._reading:
            if time.monotonic() - self._read_at > FRESH_S:
                self._last = await asyncio.to_thread(self._look, self._workers())
                self._read_at = time.monotonic()
            return self._last

    def _look(self, workers: list[OurWorker]) -> DeviceList:
        probe = self._machine.probe
        cards = probe()
        known = probe.reading.cards if isinstance(probe, GpuProbe) and probe.reading is not None else ()
        by_uuid = {card.uuid: card for card in known}
        trees = {worker.pid: _tree(worker.pid) for worker in workers if worker.pid}
        found = [_gpu_reading(card, by_uuid.get(card.uuid), workers, trees) for card in cards]
        found.append(self._cpu_reading(trees))
        note = probe.note if isinstance(probe, GpuProbe) else ""
        return DeviceList(found, "" if cards else note or "no GPU")

    def _cpu_reading(self, trees: Mapping[int, list[psutil.Process]]) -> DeviceReading:
        memory = psutil.virtual_memory()
        # psutil compares with its last look, so the first says nothing.
        busy = psutil.cpu_percent(interval=None) / 100
        asked_before, self._asked_before = self._asked_before, True
        return DeviceReading(
            id=CPU,
            kind="cpu",
            name=cpu_name(),
            memory_total=int(memory.total),
            memory_free=int(memory.available),
            memory_used_by_us=sum(_resident(each) for tree in trees.values() for each in tree),
            utilisation=round(busy, 3) if asked_before else None,
            temperature=_cpu_temperature(),
        )


def _gpu_reading(
    card: Gpu, said: Card | None, workers: Iterable[OurWorker], trees: Mapping[int, list[psutil.Process]]
) -> DeviceReading:
    device = card.uuid or f"GPU-{card.number}"
    return DeviceReading(
        id=device,
        kind="gpu",
        name=card.name,
        memory_total=card.total_bytes,
        memory_free=card.free_bytes,
        memory_used_by_us=_ours(device, said, workers, trees),
        utilisation=said.utilisation if said is not None else None,
        temperature=said.temperature if said is not None else None,
        power_w=said.power_w if said is not None else None,
        note=said.note if said is not None else "",
    )


def _ours(
    device: str, said: Card | None, workers: Iterable[OurWorker], trees: Mapping[int, list[psutil.Process]]
) -> int:
    """By the driver's list of processes; where it shows none of ours (in a container), by what our workers say."""
    pids = {each.pid for tree in trees.values() for each in tree}
    seen = {pid: size for pid, size in said.processes.items() if pid in pids} if said is not None else {}
    if any(seen.values()):
        return sum(seen.values())
    return sum(worker.memory // len(worker.devices) for worker in workers if device in worker.devices)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _cpu_temperature() -> float | None:
    """Linux alone tells; the first sensor of the processor's own."""
    read = getattr(psutil, "sensors_temperatures", None)
    if read is None:
        return None
    try:
        sensors = read()
    except (OSError, ValueError):
        return None
    for name in _CPU_SENSORS:
        values = [each.current for each in sensors.get(name, ()) if each.current]
        if values:
            return float(values[0])
    return None


@lru_cache(maxsize=1)
def cpu_name() -> str:
    """What the system calls its processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    import platform

    return found or platform.processor() or platform.machine() or "CPU"
