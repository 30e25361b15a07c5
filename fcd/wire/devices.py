"""What the devices of a machine are doing: GET /api/devices, and the event `devices` of GET /api/events."""

from __future__ import annotations

from typing import Literal

import msgspec


class DeviceReading(msgspec.Struct):
    """One device as it is now. None is what the driver does not tell."""

    id: str
    """`cpu`, or the GPU's UUID."""
    kind: Literal["gpu", "cpu"]
    name: str
    memory_total: int
    """Bytes; of `cpu`, the machine's RAM."""
    memory_free: int
    """Bytes that a new process could take."""
    memory_used_by_us: int
    """Bytes that workers of this daemon hold there."""
    utilisation: float | None = None
    """0 to 1: of `cpu`, over all cores; of a GPU, the share of time in which something ran."""
    temperature: float | None = None
    """Degrees Celsius."""
    power_w: float | None = None
    note: str = ""
    """What is wrong with it or could not be read, such as a GPU that is cut into MIG slices."""


class DeviceList(msgspec.Struct):
    """GPUs in the driver's order, then `cpu`. Readings are at most a few seconds old."""

    devices: list[DeviceReading]
    note: str = ""
    """Why there are no GPUs, such as `no NVIDIA driver`; empty when there are some."""
