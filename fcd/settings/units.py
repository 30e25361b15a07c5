"""Durations and amounts of memory, as people write them."""

from __future__ import annotations

import re

from fcd.errors import ConfigError

_DURATION = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of `5m`, `30s`, `1h`, `90`; anything below zero is for ever (`inf`).

    Raises:
        ConfigError: not a duration.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration: write 30s, 5m, 1h, a number of seconds, or -1 for ever.")
    value = float(match.group(1)) * _UNITS[match.group(2) or "s"]
    return float("inf") if value < 0 else value


_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of `8GiB`, `800 MB`, `123`.

    Raises:
        ConfigError: not an amount of memory.
    """
    match = _SIZE.match(text)
    if match is None or match.group(2).upper() not in _SIZES:
        raise ConfigError(f"'{text}' is not an amount of memory: write 8GiB or 800MiB.")
    return int(float(match.group(1)) * _SIZES[match.group(2).upper()])
