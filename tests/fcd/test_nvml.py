"""What is read of GPUs, from a driver that withholds this and that."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fcd.machine import GpuProbe, has_amd
from fcd.nvml import NoDriver, Nvml

GIB = 2**30


class NVMLError(Exception):
    pass


class NVMLError_LibraryNotFound(NVMLError):
    pass


class FakeNvml:
    """Two GPUs: one whole, one cut into two MIG slices; `broken` names the calls that are refused."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError

    def __init__(self, *broken: str) -> None:
        self.broken = set(broken)
        self.opened = 0
        self.cards: dict[str, dict[str, Any]] = {
            "a": {"name": "Whole", "uuid": "GPU-a", "total": 80 * GIB, "free": 60 * GIB, "mig": 0},
            "b": {"name": "Cut", "uuid": "GPU-b", "total": 80 * GIB, "free": 80 * GIB, "mig": 1},
            "b0": {"name": "Cut MIG 1g", "uuid": "MIG-0", "total": 10 * GIB, "free": 9 * GIB, "mig": 0},
        }

    def _check(self, name: str) -> None:
        if name in self.broken:
            raise NVMLError(f"{name}: insufficient permissions")

    def nvmlInit(self) -> None:
        if "library" in self.broken:
            raise NVMLError_LibraryNotFound("not found")
        self._check("nvmlInit")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        self._check("nvmlSystemGetDriverVersion")
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13000

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, number: int) -> str:
        self._check(f"handle {number}")
        return "ab"[number]

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:
        self._check("nvmlDeviceGetMigMode")
        return (self.cards[handle]["mig"], 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, place: int) -> str:
        if place:
            raise NVMLError("not found")
        return f"{handle}{place}"

    def nvmlDeviceGetName(self, handle: str) -> str:
        return str(self.cards[handle]["name"])

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return str(self.cards[handle]["uuid"]).encode()

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        self._check("memory")
        return SimpleNamespace(total=self.cards[handle]["total"], free=self.cards[handle]["free"])

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        self._check("nvmlDeviceGetUtilizationRates")
        return SimpleNamespace(gpu=37)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._check("nvmlDeviceGetPowerUsage")
        return 123_456

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=5 * GIB), SimpleNamespace(pid=8, usedGpuMemory=None)]

    def nvmlDeviceGetCudaComputeCapability(self, handle: str) -> tuple[int, int]:
        return (9, 0)


def test_everything_is_read() -> None:
    library = FakeNvml()
    nvml = Nvml(library)
    found = nvml.read()
    assert nvml.read() == found
    assert (found.driver, found.cuda, library.opened) == ("580.95.05", (13, 0), 1)
    whole, slice_ = found.cards
    assert (whole.uuid, whole.total_bytes, whole.free_bytes) == ("GPU-a", 80 * GIB, 60 * GIB)
    assert (whole.utilisation, whole.temperature, whole.power_w) == (0.37, 61.0, 123.456)
    assert whole.processes == {7: 5 * GIB, 8: 0}
    assert (slice_.uuid, slice_.total_bytes, slice_.note) == ("MIG-0", 10 * GIB, "a MIG slice of Cut")
    nvml.close()
    assert library.opened == 0


def test_what_is_withheld_is_none_and_costs_nothing_else() -> None:
    library = FakeNvml("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMigMode", "handle 1")
    (card,) = Nvml(library).read().cards
    assert (card.utilisation, card.power_w, card.temperature) == (None, None, 61.0)


def test_a_gpu_whose_memory_cannot_be_read_is_none() -> None:
    assert Nvml(FakeNvml("memory")).read().cards == ()


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoDriver, match="no NVIDIA driver"):
        Nvml(FakeNvml("library")).read()
    probe = GpuProbe(Nvml(FakeNvml("library")))
    assert probe() == []
    assert "no NVIDIA driver" in probe.note
    with pytest.raises(NoDriver, match="does not answer"):
        Nvml(FakeNvml("nvmlInit")).read()


def test_a_driver_that_dies_is_opened_again() -> None:
    library = FakeNvml()
    nvml = Nvml(library)
    nvml.read()
    library.broken.add("nvmlSystemGetDriverVersion")
    with pytest.raises(NoDriver, match="does not answer"):
        nvml.read()
    library.broken.clear()
    assert nvml.read().cards


def test_the_probe_keeps_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = GpuProbe(Nvml(FakeNvml()))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a")
    assert [(card.uuid, card.free_bytes) for card in probe()] == [("GPU-a", 60 * GIB)]
    assert probe.note == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probe() == []
    assert "CUDA_VISIBLE_DEVICES" in probe.note


def test_an_amd_gpu_is_seen(tmp_path: Path) -> None:
    assert not has_amd(tmp_path)
    vendor = tmp_path / "card0" / "device" / "vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x1002\n")
    assert has_amd(tmp_path)
