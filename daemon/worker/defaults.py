"""What a model's authors recommend for sampling, for fields that a request leaves out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec


class SamplingDefaults(msgspec.Struct, frozen=True):
    """OpenAI's defaults, where the model's generation_config.json says nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (0, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
}


def read_defaults(folder: Path) -> SamplingDefaults:
    """From generation_config.json: its values while it samples, greedy when it says `"do_sample": false`.

    What is missing or out of range there is passed over.
    """
    try:
        found = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return SamplingDefaults()
    return from_config(found) if isinstance(found, dict) else SamplingDefaults()


def from_config(config: dict[str, Any]) -> SamplingDefaults:
    usable = {name: config[name] for name, bounds in _RANGES.items() if _usable(config.get(name), *bounds)}
    penalty = usable.get("repetition_penalty", 1.0)
    if config.get("do_sample") is False:
        return SamplingDefaults(temperature=0.0, repetition_penalty=penalty)
    if "top_k" in usable:
        usable["top_k"] = int(usable["top_k"])
    return SamplingDefaults(**usable)


def _usable(value: Any, low: float, high: float) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high
