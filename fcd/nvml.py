"""What NVIDIA's driver says of its GPUs, through NVML.

Each value that a driver, a container or a MIG slice withholds is None; only a driver that is not there is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

_MOST_SLICES = 16
T = TypeVar("T")


class NoDriver(Exception):
    """There is no NVIDIA driver here, or it does not answer; the message says which."""


class Card(msgspec.Struct, frozen=True):
    """One GPU, or one MIG slice of one."""

    uuid: str
    name: str
    total_bytes: int
    free_bytes: int
    processes: dict[int, int] = {}
    """Process id to the bytes that it holds; empty where the driver shows none, as in most containers."""
    utilisation: float | None = None
    """0 to 1."""
    temperature: float | None = None
    """Degrees Celsius."""
    power_w: float | None = None
    capability: tuple[int, int] = (0, 0)
    """CUDA's compute capability; zeros are not known."""
    note: str = ""


class Reading(msgspec.Struct, frozen=True):
    driver: str
    """Such as `580.95.05`."""
    cuda: tuple[int, int]
    """The newest CUDA that the driver runs."""
    cards: tuple[Card, ...]


class Nvml:
    """A connection to the driver, kept open: opening one may take seconds. `library` is pynvml."""

    def __init__(self, library: Any = None) -> None:
        self._given = library
        self._library: Any = None

    def read(self) -> Reading:
        """Every GPU as it is now.

        Raises:
            NoDriver: there is none.
        """
        nvml = self._open()
        try:
            driver = _text(nvml.nvmlSystemGetDriverVersion())
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self.close()
            raise NoDriver(f"the NVIDIA driver does not answer: {error}") from error
        cuda = _asked(nvml, nvml.nvmlSystemGetCudaDriverVersion) or 0
        cards = tuple(card for number in range(count) for card in _cards(nvml, number))
        return Reading(driver, (cuda // 1000, cuda % 1000 // 10), cards)

    def close(self) -> None:
        nvml, self._library = self._library, None
        if nvml is not None:
            _asked(nvml, nvml.nvmlShutdown)

    def _open(self) -> Any:
        if self._library is not None:
            return self._library
        nvml = self._given if self._given is not None else _library()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            missing = type(error).__name__ in ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded")
            raise NoDriver("no NVIDIA driver" if missing else f"the NVIDIA driver does not answer: {error}") from error
        self._library = nvml
        return nvml


@contextmanager
def opened() -> Iterator[Nvml]:
    """For a single look."""
    nvml = Nvml()
    try:
        yield nvml
    finally:
        nvml.close()


def _library() -> Any:
    try:
        import pynvml
    except ImportError as error:
        raise NoDriver("nvidia-ml-py is not installed") from error
    return pynvml


def _cards(nvml: Any, number: int) -> list[Card]:
    """A GPU, or the slices of one that is cut; none when it cannot be reached."""
    handle = _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, number)
    if handle is None:
        return []
    mode = _asked(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if not mode or not mode[0]:
        found = _card(nvml, handle)
        return [found] if found is not None else []
    name = _text(_asked(nvml, nvml.nvmlDeviceGetName, handle) or "GPU")
    slices = []
    for place in range(min(_MOST_SLICES, _asked(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)):
        part = _asked(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place)
        found = _card(nvml, part, note=f"a MIG slice of {name}") if part is not None else None
        if found is not None:
            slices.append(found)
    return slices


def _card(nvml: Any, handle: Any, note: str = "") -> Card | None:
    memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    uuid = _asked(nvml, nvml.nvmlDeviceGetUUID, handle)
    if memory is None or uuid is None:
        return None
    busy = _asked(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    power = _asked(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    heat = _asked(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    running = _asked(nvml, nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
    capability = _asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle) or (0, 0)
    return Card(
        _text(uuid),
        _text(_asked(nvml, nvml.nvmlDeviceGetName, handle) or "GPU"),
        int(memory.total),
        int(memory.free),
        {int(each.pid): int(each.usedGpuMemory or 0) for each in running},
        busy.gpu / 100 if busy is not None else None,
        float(heat) if heat is not None else None,
        power / 1000 if power is not None else None,
        (int(capability[0]), int(capability[1])),
        note,
    )


def _asked(nvml: Any, question: Callable[..., T], *about: Any) -> T | None:
    try:
        return question(*about)
    except nvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
