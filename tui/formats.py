"""Numbers as they are shown."""

from __future__ import annotations

from fcd.wire.admin import Progress
from tui.glyphs import Glyphs, bar


def count(value: float) -> str:
    """`950`, `1.6k`, `32k`, `1.2M`."""
    if value < 1000:
        return str(int(value))
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if value < size * 999.5 or unit == "G":
            scaled = value / size
            return f"{scaled:.1f}{unit}".replace(".0", "") if scaled < 9.95 else f"{scaled:.0f}{unit}"
    raise AssertionError


def context(length: int) -> str:
    """A context length as models are described: `2k` is 2048."""
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else count(length)


def size(value: float) -> str:
    """Bytes: `420M`, `8.1G`."""
    for unit in ("", "K", "M", "G", "T"):
        if value < 1023.5 or unit == "T":
            return f"{value:.0f}{unit}" if value >= 9.95 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    raise AssertionError


def seconds(value: float) -> str:
    """`0.42 s`, `14 s`, `3 min`."""
    if value < 9.95:
        return f"{value:.2f} s" if value < 0.995 else f"{value:.1f} s"
    return f"{value:.0f} s" if value < 90 else f"{value / 60:.0f} min"


def rate(value: float) -> str:
    """Tokens per second: `31.4`, `412`."""
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def progress(step: Progress, glyphs: Glyphs, width: int = 12) -> str:
    """`loading weights ━━━━━━──── 61 % 2 of 3 shards`."""
    parts = [step.stage]
    if step.total > 0:
        fraction = min(1.0, step.done / step.total)
        parts += [bar(fraction, width, glyphs), f"{fraction * 100:.0f} %"]
        if step.unit in ("B", "bytes"):
            parts.append(f"{size(step.done)} of {size(step.total)}")
        elif step.unit:
            parts.append(f"{step.done:.0f} of {step.total:.0f} {step.unit}")
    if step.detail:
        parts.append(step.detail)
    return " ".join(part for part in parts if part)
