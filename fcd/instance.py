"""Which daemon runs for these folders. The lock decides: a pidfile may be stale, a held lock never is."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import IO

import msgspec

from fcd.errors import AlreadyRunning
from fcd.paths import Paths

_PROBE_GRACE_S = 1.0
"""Somebody who only asks whether the lock is held holds it for an instant; a starting daemon waits this long."""


class Instance(msgspec.Struct, frozen=True):
    """What a daemon writes about itself, in the pidfile."""

    pid: int
    url: str
    version: str
    started_at: float
    """Unix time in seconds."""
    create_time: float = 0.0
    """When the operating system started the process; with the pid it tells it from any later process of that pid."""


class InstanceLock:
    """The lock that a daemon holds for its life. The operating system gives it back however the process ends."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    @classmethod
    def acquire(cls, paths: Paths) -> InstanceLock:
        """Raises AlreadyRunning, with pid and URL where they are known."""
        deadline = time.monotonic() + _PROBE_GRACE_S
        while (file := try_lock(paths.lockfile)) is None:
            instance = read_record(paths)
            if time.monotonic() > deadline or (instance is not None and is_process(instance)):
                raise already_running(instance)
            time.sleep(0.02)
        return cls(file)

    def release(self) -> None:
        self._file.close()


def already_running(instance: Instance | None) -> AlreadyRunning:
    if instance is None:
        return AlreadyRunning("A daemon is starting or stopping here.", hint="`fcd daemon status` says when it is up.")
    return AlreadyRunning(
        f"The daemon is already running (pid {instance.pid}, {instance.url}).",
        hint="`fcd daemon restart` starts it afresh; `fcd daemon stop` ends it.",
    )


def lock_is_held(paths: Paths) -> bool:
    """Whether a daemon lives for these folders."""
    if not paths.lockfile.exists():
        return False
    file = try_lock(paths.lockfile)
    if file is None:
        return True
    file.close()
    return False


def running_instance(paths: Paths) -> Instance | None:
    """The daemon that runs here; None when there is none, or when it has not yet said where it listens.

    A pidfile that a dead daemon left behind is not believed, whatever process has its pid now.
    """
    instance = read_record(paths)
    if instance is None or not lock_is_held(paths) or not is_process(instance):
        return None
    return instance


def is_process(instance: Instance) -> bool:
    """Whether that very process lives, and not another one with its pid."""
    import psutil

    try:
        process = psutil.Process(instance.pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return not instance.create_time or abs(process.create_time() - instance.create_time) < 2.0
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return False


def read_record(paths: Paths) -> Instance | None:
    try:
        return msgspec.json.decode(paths.pidfile.read_bytes(), type=Instance)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(paths: Paths, instance: Instance) -> None:
    write_private(paths.pidfile, msgspec.json.encode(instance))


def remove_record(paths: Paths, pid: int) -> None:
    """Remove the pidfile, unless another daemon wrote it."""
    instance = read_record(paths)
    if instance is None or instance.pid == pid:
        paths.pidfile.unlink(missing_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file at once with one that only its owner can read."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def try_lock(path: Path) -> IO[bytes] | None:
    """Take a lock that ends with the process. The open, locked file, or None when another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
