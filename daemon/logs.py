"""The daemon's logging: JSON lines in a bounded file, plain lines on a terminal, and no secrets in either."""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import msgspec

from fcd.logformat import for_people, format_record

_MAX_BYTES = 10 * 1024 * 1024
_KEPT_FILES = 5
_LONGEST_LINE = 1 << 16

_SECRETS = re.compile(r"(fcd-[a-z]-[0-9a-f]{0,8}-?|[Bb]earer\s+|/join/)[A-Za-z0-9_.~+=-]{16,}")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def without_secrets(text: str) -> str:
    """The text with keys, tokens and bearer values replaced."""
    return _SECRETS.sub(lambda match: f"{match.group(1)}***", text)


def as_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is written of a record: time in Unix seconds, level, logger, message, and what `extra=` added."""
    fields: dict[str, Any] = {
        "time": round(record.created, 3),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": without_secrets(record.getMessage())[:_LONGEST_LINE],
    }
    for name, value in vars(record).items():
        if name not in _STANDARD and not name.startswith("_"):
            fields[name] = (
                value if isinstance(value, (int, float, bool)) else without_secrets(str(value))[:_LONGEST_LINE]
            )
    if record.exc_info and record.exc_info[1] is not None:
        fields["trace"] = without_secrets(logging.Formatter().formatException(record.exc_info))[:_LONGEST_LINE]
    return fields


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(as_fields(record)).decode()


class PlainFormatter(logging.Formatter):
    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        return format_record(as_fields(record), colour=self._colour)


def configure_logging(log_file: Path, level: str, *, on_terminal: bool, colour: bool = False) -> None:
    """Send everything to the file, and to stderr as well for a daemon in the foreground."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    to_file = RotatingFileHandler(log_file, maxBytes=_MAX_BYTES, backupCount=_KEPT_FILES, encoding="utf-8")
    to_file.setFormatter(JsonFormatter())
    handlers: list[logging.Handler] = [to_file]
    if on_terminal:
        to_terminal = logging.StreamHandler(sys.stderr)
        to_terminal.setFormatter(PlainFormatter(colour=colour))
        handlers.append(to_terminal)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level.upper())
    for chatty in ("asyncio", "httpx", "httpx2", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def last_lines(log_file: Path, count: int) -> list[str]:
    """The end of the log, for people; reaches into the file before the last rotation when it must."""
    lines: deque[str] = deque(maxlen=count)
    for path in (log_file.with_name(f"{log_file.name}.1"), log_file):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                lines.extend(for_people(line) for line in file)
        except FileNotFoundError:
            continue
    return list(lines)
