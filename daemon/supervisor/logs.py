"""A worker's log files: one per start, a bounded number kept."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import IO

KEPT = 5
MAX_BYTES = 64 * 2**20
_TAIL_BYTES = 2**20


def open_log(folder: Path, worker: str) -> tuple[Path, IO[bytes]]:
    """A new file for a start that is about to happen; the oldest beyond `KEPT` go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in log_files(folder, worker)[: 1 - KEPT]:
        old.unlink(missing_ok=True)
    while True:
        moment = time.time_ns()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(moment // 10**9))
        path = folder / f"{worker}-{stamp}.{moment // 1000 % 10**6:06d}.log"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except FileExistsError:
            continue
        return path, os.fdopen(descriptor, "ab", buffering=0)


def log_files(folder: Path, worker: str) -> list[Path]:
    """The worker's log files, oldest first."""
    pattern = re.compile(re.escape(worker) + r"-(\d{8}T\d{6}\.\d{6})\.log")
    found = []
    for path in folder.glob(f"{_escape_glob(worker)}-*.log"):
        match = pattern.fullmatch(path.name)
        if match is not None:
            found.append((match[1], path))
    return [path for _, path in sorted(found)]


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, read from its end; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def shorten(path: Path) -> None:
    """Empty a log that has grown beyond what may be kept. Its writer appends, so it goes on from the start."""
    try:
        if path.stat().st_size > MAX_BYTES:
            os.truncate(path, 0)
    except OSError:
        pass


def _escape_glob(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)
