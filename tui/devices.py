"""The devices of the daemon's machine as rows: readings, and what they were over the last minutes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from textual.content import Content

from fcd.wire.devices import DeviceReading
from tui import formats
from tui.glyphs import Glyphs, sparkline

KEPT = 90
"""Readings of each device; they come every two seconds."""
_NAME = 14
_HOT, _WARM = 0.9, 0.7
Part = tuple[str, str]


class DeviceHistory:
    """The last readings of each device."""

    def __init__(self) -> None:
        self.now: list[DeviceReading] = []
        self.count = 0
        """Grows with every reading."""
        self._use: dict[str, deque[float]] = {}
        self._memory: dict[str, deque[float]] = {}

    def add(self, readings: Sequence[DeviceReading]) -> None:
        """Take in a reading of every device; those that are not in it are forgotten."""
        self.now = list(readings)
        self.count += 1
        ids = {reading.id for reading in readings}
        for kept in (self._use, self._memory):
            for gone in kept.keys() - ids:
                del kept[gone]
        for reading in readings:
            if reading.utilisation is not None:
                self._use.setdefault(reading.id, deque(maxlen=KEPT)).append(reading.utilisation)
            self._memory.setdefault(reading.id, deque(maxlen=KEPT)).append(memory_share(reading))

    def use(self, device: str) -> list[float]:
        return list(self._use.get(device, ()))

    def memory(self, device: str) -> list[float]:
        return list(self._memory.get(device, ()))


def memory_share(reading: DeviceReading) -> float:
    """How much of its memory is taken, 0 to 1."""
    return 1 - reading.memory_free / reading.memory_total if reading.memory_total else 0.0


def short_names(readings: Sequence[DeviceReading]) -> dict[str, str]:
    """`GPU 0`, `CPU`: as people count them."""
    numbers = iter(range(len(readings)))
    return {reading.id: f"GPU {next(numbers)}" if reading.kind == "gpu" else "CPU" for reading in readings}


def device_rows(history: DeviceHistory, glyphs: Glyphs, width: int, most: int) -> list[Content]:
    """One row for each device, at most `most`; the last then says how many are left out, the busiest being shown."""
    names = short_names(history.now)
    shown = history.now
    if len(shown) > most:
        busiest = sorted(shown, key=lambda reading: -(reading.utilisation or 0) - memory_share(reading))[: most - 1]
        shown = [reading for reading in shown if reading in busiest]
    rows = [_row(reading, names[reading.id], history, glyphs, width) for reading in shown]
    left = len(history.now) - len(shown)
    if left:
        rows.append(Content.styled(f" {left} more, less busy", "$foreground 60%"))
    return rows


def _row(reading: DeviceReading, name: str, history: DeviceHistory, glyphs: Glyphs, width: int) -> Content:
    unit = "mem" if reading.kind == "gpu" else "RAM"
    used = reading.memory_total - reading.memory_free
    words = [f"{formats.size(used)}/{formats.size(reading.memory_total)}"]
    extra = []
    if reading.memory_used_by_us:
        extra.append(f"ours {formats.size(reading.memory_used_by_us)}")
    degrees = "C" if glyphs.ascii else "°C"
    extra += [f"{reading.temperature:.0f}{degrees}"] if reading.temperature is not None else []
    extra += [f"{reading.power_w:.0f} W"] if reading.power_w is not None else []
    use = reading.utilisation
    percent = f"{use * 100:3.0f} %" if use is not None else f"  {glyphs.dash}  "
    fixed = len(f" {name:<6}use  {percent}  {unit}  {words[0]:<9}  {'  '.join(extra)}")
    spark = min(KEPT, max(0, (width - fixed - 1) // 2))
    tail = f"  {'  '.join(extra)}"
    detail = reading.note or (reading.name if width - fixed - 2 * spark > len(reading.name) + 2 else "")
    parts: list[Part] = [
        (f" {name:<6}", "bold"),
        ("use ", "$foreground 60%"), (_spark(history.use(reading.id), spark, glyphs), "$text-accent"),
        (f" {percent}", _alarm(use or 0.0)),
        (f"  {unit} ", "$foreground 60%"), (_spark(history.memory(reading.id), spark, glyphs), "$text-primary"),
        (f" {words[0]:<9}", _alarm(memory_share(reading))), (tail, "$foreground 70%"),
        (f"  {detail}" if detail else "", "$text-warning" if reading.note else "$foreground 50%"),
    ]  # fmt: skip
    return Content.assemble(*parts)


def _spark(values: list[float], width: int, glyphs: Glyphs) -> str:
    shown = values[-width:] if width else []
    return " " * (width - len(shown)) + sparkline(shown, glyphs, top=1.0) if shown else " " * width


def _alarm(share: float) -> str:
    return "$text-error" if share > _HOT else "$text-warning" if share > _WARM else ""
