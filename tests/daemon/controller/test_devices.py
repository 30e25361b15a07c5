"""Readings of devices: over HTTP, as events, for Prometheus."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from daemon.controller.devices import Devices, OurWorker
from daemon.supervisor.memory import MachineMemory
from fcd.machine import Gpu, GpuProbe
from fcd.nvml import Card, Nvml, Reading
from fcd.wire.admin import DaemonEvent
from fcd.wire.devices import DeviceList
from tests.daemon.controller.harness import running

GIB = 2**30


class StandInNvml(Nvml):
    def __init__(self, cards: tuple[Card, ...]) -> None:
        super().__init__()
        self.cards = cards
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        return Reading("580.1", (13, 0), self.cards)


def devices_of(processes: dict[int, int], workers: list[OurWorker]) -> tuple[Devices, StandInNvml]:
    nvml = StandInNvml((Card("GPU-a", "A card", 80 * GIB, 50 * GIB, processes, 0.5, 60.0, 200.0),))
    return Devices(MachineMemory(GpuProbe(nvml)), lambda: workers), nvml


def test_what_is_ours_is_told_from_what_others_hold() -> None:
    async def main() -> None:
        mine = OurWorker(os.getpid(), 3 * GIB, ("GPU-a",))
        devices, nvml = devices_of({os.getpid(): 4 * GIB, 1: 20 * GIB}, [mine])
        gpu, cpu = (await devices.read()).devices
        assert (gpu.id, gpu.kind, gpu.memory_free, gpu.memory_used_by_us) == ("GPU-a", "gpu", 50 * GIB, 4 * GIB)
        assert (gpu.utilisation, gpu.temperature, gpu.power_w) == (0.5, 60.0, 200.0)
        assert (cpu.id, cpu.kind) == ("cpu", "cpu")
        assert cpu.memory_used_by_us > 0
        await devices.read()
        assert nvml.reads == 1, "a young reading is given out again"
        # A container's driver shows no processes: then the worker's own word counts.
        hidden, _ = devices_of({}, [mine])
        assert (await hidden.read()).devices[0].memory_used_by_us == 3 * GIB

    asyncio.run(main())


def test_a_machine_without_gpu_says_why() -> None:
    async def main() -> None:
        found = await Devices(MachineMemory(list[Gpu]), list).read()
        assert [each.kind for each in found.devices] == ["cpu"]
        assert found.note

    asyncio.run(main())


def test_they_are_shown_over_http_as_events_and_as_metrics(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as daemon:
            answer = await daemon.http.get("/api/devices", headers=daemon.admin)
            found = msgspec.json.decode(answer.content, type=DeviceList)
            assert found.devices[-1].id == "cpu"
            assert found.devices[-1].memory_total > found.devices[-1].memory_free > 0
            assert (await daemon.http.get("/api/devices")).status_code == 401
            text = (await daemon.http.get("/metrics")).text
            assert 'fcd_device_memory_bytes{device="cpu"' in text
            seen = 0
            async with daemon.http.stream("GET", "/api/events", headers=daemon.admin) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        event = msgspec.json.decode(line[6:], type=DaemonEvent)
                        if event.type == "devices":
                            assert event.devices[-1].kind == "cpu"
                            seen += 1
                    if seen == 2:
                        break
            assert daemon.controller.hub.watched is False or seen == 2

    asyncio.run(main())
