"""`fcd doctor`: checks this machine and says what to mend."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.output import print_json, size
from fcd.errors import EXIT_FAILED, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from fcd.paths import Paths
    from fcd.settings import Settings

_SOCKET_LIMIT = 104
"""Bytes of a unix socket's path that every platform takes."""
_SOCKET_NAME = 30
_LOW_DISK = 2e9
_LOW_MEMORY = 1e9


class Check(msgspec.Struct, frozen=True):
    name: str
    state: Literal["ok", "warning", "failed"]
    found: str
    hint: str = ""


def add_arguments(parser: Parser) -> None:
    parser.epilog = "The exit code is 1 when a check failed; warnings leave it 0."
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    checks = list(all_checks())
    if args.json:
        print_json({"checks": checks, "ok": all(check.state != "failed" for check in checks)})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<7}  {check.name:<{width}}  {check.found}")
            if check.hint:
                print(f"{'':<7}  {'':<{width}}  {check.hint}")
    return EXIT_FAILED if any(check.state == "failed" for check in checks) else EXIT_OK


def all_checks() -> Iterator[Check]:
    """Every check; one that goes wrong itself is a failed one."""
    from fcd.paths import resolve_paths

    paths = resolve_paths()
    settings, configuration = _configuration(paths)
    yield _guarded("python", check_python)
    for package in ("torch", "transformers"):
        yield _guarded(package, lambda package=package: check_package(package))  # type: ignore[misc]
    yield _guarded("devices", check_devices)
    yield _guarded("memory", check_memory)
    yield configuration
    for name in ("config", "data", "state", "cache", "runtime"):
        yield _guarded(f"{name} folder", lambda name=name: check_folder(name, getattr(paths, name)))  # type: ignore[misc]
    yield _guarded("sockets", lambda: check_sockets(paths))
    yield _guarded("models", check_models)
    yield _guarded("hub cache", check_hub)
    if settings is not None:
        yield _guarded("daemon", lambda: check_daemon(settings, paths))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return Check(name, "failed", f"could not be checked: {type(error).__name__}: {error}")


def check_python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def check_package(name: str) -> Check:
    """By the package's metadata: importing torch takes seconds."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "failed", "is not installed", f"{sys.executable} -m pip install {name}")


def check_devices() -> Check:
    import psutil

    from fcd.machine import GpuProbe, cpu_has_bf16, has_metal

    probe = GpuProbe()
    try:
        cards = [f"{card.name} ({size(card.total_bytes)}, {size(card.free_bytes)} free)" for card in probe()]
    finally:
        probe.close()
    if cards and probe.reading is not None:
        cuda = ".".join(map(str, probe.reading.cuda))
        cards.append(f"NVIDIA driver {probe.reading.driver} (CUDA {cuda})")
    if has_metal():
        cards.append("Metal")
    elif not cards:
        cards.append(probe.note)
    threads, cores = os.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    bf16 = ", bfloat16" if cpu_has_bf16() else ""
    return Check("devices", "ok", "; ".join([*cards, f"CPU ({cores} cores, {threads} threads{bf16})"]))


def check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} of {size(memory.total)} available"
    if memory.available < _LOW_MEMORY:
        return Check("memory", "warning", found, "A worker needs some hundred MB besides its model.")
    return Check("memory", "ok", found)


def check_folder(name: str, folder: Path) -> Check:
    label = f"{name} folder"
    here = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    moved = f"Make it writable, or set FCD_{name.upper()}_DIR or FCD_HOME."
    if folder.exists() and not folder.is_dir():
        return Check(label, "failed", f"{folder} is not a folder", moved)
    if not os.access(here, os.W_OK | os.X_OK):
        return Check(label, "failed", f"{here} cannot be written", moved)
    if name == "runtime" and folder.is_dir() and hasattr(os, "getuid") and folder.stat().st_mode & 0o077:
        return Check(label, "warning", f"{folder} can be read by others", f"chmod 700 {folder}")
    if not folder.exists() and not _can_be_made_in(here):
        return Check(label, "failed", f"{folder} cannot be made in {here}", moved)
    free = shutil.disk_usage(here).free
    found = str(folder) + ("" if folder.exists() else " (not made yet)")
    if free < _LOW_DISK and name in ("data", "state", "cache"):
        return Check(label, "warning", f"{found}, {size(free)} free", "The disk is nearly full.")
    return Check(label, "ok", found)


def _can_be_made_in(folder: Path) -> bool:
    """Whether a folder can be made there, tried: permissions say nothing of read-only and of special file systems."""
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".fcd-", dir=folder))
    except OSError:
        return False
    return True


def check_sockets(paths: Paths) -> Check:
    folder = paths.sockets
    length = len(os.fsencode(folder)) + _SOCKET_NAME
    if not hasattr(socket, "AF_UNIX"):
        return Check("sockets", "ok", "this platform has no unix sockets; workers use loopback TCP")
    if length > _SOCKET_LIMIT:
        return Check(
            "sockets", "warning", f"{folder} is too long for a unix socket's path", "Set TMPDIR to a shorter path."
        )
    return Check("sockets", "ok", str(folder))


def check_models() -> Check:
    from fcd.builtin import NAMES, builtin_path
    from fcd.catalog.hub import is_complete

    missing = [name for name in NAMES if not is_complete(builtin_path(name))]
    if missing:
        return Check("models", "failed", f"built-in models without files: {', '.join(missing)}", "Install fcd again.")
    return Check("models", "ok", f"built in: {', '.join(NAMES)}")


def check_hub() -> Check:
    from fcd.catalog import cached_repos, hub_cache, is_offline

    repos = list(cached_repos())
    found = f"{len(repos)} models, {size(sum(repo.size_bytes for repo in repos)) or '0 B'} in {hub_cache()}"
    if is_offline():
        return Check("hub cache", "ok", f"{found}; HF_HUB_OFFLINE is set, so nothing can be downloaded")
    return Check("hub cache", "ok", found)


def check_daemon(settings: Settings, paths: Paths) -> Check:
    from fcd.instance import running_instance

    if os.environ.get("FCD_URL"):
        return _remote(os.environ["FCD_URL"])
    instance = running_instance(paths)
    if instance is not None:
        return _running(instance.url, instance.pid)
    host, port = settings.daemon.host, settings.daemon.port
    taken = port and _answers(host, port)
    if taken:
        return Check(
            "daemon",
            "failed",
            f"not running, and another program has {host}:{port}",
            "End that program, or choose another port: `fcd config set daemon.port N`.",
        )
    return Check("daemon", "ok", f"not running; {host}:{port} is free. `fcd daemon start` starts it")


def _running(url: str, pid: int) -> Check:
    from fcd.cli.ensure import not_ready

    reason = not_ready(url)
    if reason is None:
        return Check("daemon", "ok", f"ready at {url} (pid {pid})")
    return Check("daemon", "warning", f"runs (pid {pid}), but is not ready: {reason}", "`fcd daemon logs` says more.")


def _remote(url: str) -> Check:
    from fcd.client import Client

    answers: list[bool] = []

    async def ask() -> int:
        async with Client() as client:
            answers.append(await client.is_alive())
        return EXIT_OK

    run_async(ask())
    if answers == [True]:
        return Check("daemon", "ok", f"answers at {url} (FCD_URL)")
    return Check(
        "daemon", "failed", f"does not answer at {url} (FCD_URL)", "Unset FCD_URL to use a daemon of your own."
    )


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False


def _configuration(paths: Paths) -> tuple[Settings | None, Check]:
    from fcd.settings import load_settings

    file = paths.config_file
    try:
        settings = load_settings(file)
    except ConfigError as error:
        return None, Check("configuration", "failed", error.message, error.hint or "`fcd config edit` opens the file.")
    return settings, Check("configuration", "ok", str(file) if file.exists() else f"{file} (none; defaults are used)")
