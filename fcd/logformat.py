"""How the daemon's log lines look: JSON in files, a plain line for people."""

from __future__ import annotations

import time
from typing import Any

import msgspec

_SHOWN = ("time", "level", "logger", "message", "trace")


def for_people(line: str, *, colour: bool = False) -> str:
    """One line of the log file as a person reads it; a line that is not JSON is returned as it is."""
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return line.rstrip("\n")
    return format_record(record, colour=colour) if isinstance(record, dict) else line.rstrip("\n")


def format_record(record: dict[str, Any], *, colour: bool = False) -> str:
    stamp = record.get("time", 0.0)
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp if isinstance(stamp, (int, float)) else 0.0))
    level = str(record.get("level", "info"))
    label = f"{level:<7}"
    if colour and level in _COLOURS:
        label = f"\x1b[{_COLOURS[level]}m{label}\x1b[0m"
    extra = "".join(f" {name}={value}" for name, value in record.items() if name not in _SHOWN)
    text = f"{clock} {label} {record.get('logger', '')}: {record.get('message', '')}{extra}"
    return f"{text}\n{record['trace']}" if record.get("trace") else text


_COLOURS = {"warning": "33", "error": "31", "critical": "31", "debug": "2"}
