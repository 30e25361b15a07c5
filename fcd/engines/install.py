"""Puts an engine into an environment of its own, and takes it away.

The marker file is written last and at once, so an environment that is half made is never taken for a whole one; the
next install goes on with what is there. One install at a time: a lock tells, which the installer's own children hold
too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from fcd.engines.environment import MARKER, Marker, engine_folder, environment_python, read_marker, read_version
from fcd.engines.releases import NEED_BYTES, PYTHONS, fits
from fcd.errors import FcdError
from fcd.instance import try_lock, write_private
from fcd.paths import Paths
from fcd.wire.admin import Progress

OnProgress = Callable[[Progress], None]

_GRACE_S = 5.0
_LAST_LINES = 12
_PR_SET_PDEATHSIG = 1
_RAW_PROGRESS = (24, 1)
"""The first pip that tells its progress in numbers."""
_NUMBERS = re.compile(r"Progress (\d+) of (\d+)")
_TOOK = re.compile(r"\s*(Downloading|Building|Preparing|Installing) (.+)")
_ASK_VERSION = "import sys; print(*sys.version_info[:2])"


def install(
    name: str,
    version: str,
    paths: Paths,
    on_progress: OnProgress,
    *,
    environ: Mapping[str, str] | None = None,
    need_bytes: int = NEED_BYTES,
) -> Marker:
    """Install one version of an engine, or finish an install of it; what is there already is kept. Blocks.

    pip's and uv's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, UV_INDEX_URL ...) hold.

    Raises:
        FcdError: there is no suitable Python, no room, another install runs, or pip failed; with its last lines.
    """
    env = _clean(os.environ if environ is None else environ)
    folder = engine_folder(paths, name)
    with _locked(paths, name) as lock:
        there = read_marker(folder)
        if there is not None and there.version == version:
            return there
        _check_room(folder, need_bytes)
        (folder / MARKER).unlink(missing_ok=True)
        requirements = [f"{name}=={version}"]
        uv = shutil.which("uv", path=env.get("PATH"))
        with _log(paths, name) as log:
            work = _Work(env, log, lock.fileno(), on_progress)
            _make_environment(work, folder, uv)
            _discard_half_installed(folder)
            work.run(_installer(folder, uv, env) + requirements, f"{name} could not be installed")
        python = environment_python(folder)
        installed = read_version(name, python, env)
        if not installed:
            raise FcdError(f"pip ended well, but {folder} has no {name}.", hint=f"Its output: {log_path(paths, name)}")
        marker = Marker(name, installed, ".".join(map(str, _version_of(python) or ())), requirements)
        write_private(folder / MARKER, msgspec.json.encode(marker))
        return marker


def remove(name: str, paths: Paths) -> int:
    """Remove an engine's environment, half made or whole; the bytes that are free again.

    Raises:
        FcdError: an install is running.
    """
    folder = engine_folder(paths, name)
    with _locked(paths, name):
        taken = folder_size(folder)
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise FcdError(f"{folder} could not be removed altogether.", hint="Remove the folder yourself.")
    return taken


def log_path(paths: Paths, name: str) -> Path:
    """Where the last install's whole output is."""
    return paths.logs / f"engine-{name}.log"


def folder_size(folder: Path) -> int:
    return sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file() and not each.is_symlink())


class _Work:
    """Programs run one after another, none of which outlives this process."""

    def __init__(self, env: Mapping[str, str], log: IO[str], lock: int, on_progress: OnProgress) -> None:
        self._env = env
        self._log = log
        self._lock = lock
        self._on_progress = on_progress

    def say(self, stage: str, done: float = 0, total: float = 0) -> None:
        self._on_progress(Progress(stage, done, total, "bytes" if total else ""))

    def run(self, command: Sequence[str], failed: str) -> None:
        """Run a program and read its output for progress. Raises FcdError when it fails."""
        options: dict[str, Any] = {}
        if os.name == "posix":
            options = {"start_new_session": True, "preexec_fn": _die_with_parent(), "pass_fds": (self._lock,)}
        self._log.write(f"$ {' '.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=dict(self._env),
                **options,
            )
        except OSError as error:
            raise FcdError(f"{failed}: {command[0]} cannot be started: {error.strerror}.") from error
        last: list[str] = []
        try:
            assert process.stdout is not None
            stage = ""
            for line in process.stdout:
                stage = self._read(line.rstrip(), stage, last)
            code = process.wait()
        finally:
            _end(process)
        if code:
            said = "\n".join(last)
            raise FcdError(f"{failed} (exit code {code}). It said last:\n{said}", hint=f"All of it: {self._log.name}")

    def _read(self, line: str, stage: str, last: list[str]) -> str:
        numbers = _NUMBERS.search(line)
        if numbers is not None:
            self.say(stage or "downloading", float(numbers[1]), float(numbers[2]))
            return stage
        if not line.strip():
            return stage
        self._log.write(line + "\n")
        last.append(line)
        del last[:-_LAST_LINES]
        found = _TOOK.match(line)
        if found is not None:
            stage = f"{found[1].lower()} {_short(found[2])}"
        elif line.startswith(("Collecting", "Resolved", "Looking")):
            stage = "working out what is needed"
        else:
            return stage
        self.say(stage)
        return stage


def _short(what: str) -> str:
    """`collected packages: a, b, c` without the list; a download without its address."""
    what = what.partition(":")[0] if what.startswith("collected packages") else what
    head, _, rest = what.partition(" ")
    return f"{head.rsplit('/', 1)[-1]} {rest}".strip()[:80]


def _make_environment(work: _Work, folder: Path, uv: str | None) -> None:
    """A virtual environment, where there is not one that works already."""
    python = environment_python(folder)
    found = _version_of(python)
    if found is not None and fits(found) and (uv or _pip_version(python)):
        return
    work.say("making an environment")
    folder.parent.mkdir(parents=True, exist_ok=True)
    base = _find_python(work._env)
    if uv:
        wanted = base or f"{PYTHONS[1][0]}.{PYTHONS[1][1]}"
        work.run([uv, "venv", "--clear", "--python", wanted, str(folder)], "The environment could not be made")
        return
    if base is None:
        low, high = (".".join(map(str, each)) for each in PYTHONS)
        raise FcdError(
            f"No Python between {low} and {high} is found here, which is what its packages are made for.",
            hint="Install one (its command is python3.12 or the like), or uv, which brings its own.",
        )
    work.run([base, "-m", "venv", "--clear", str(folder)], "The environment could not be made")


def _find_python(env: Mapping[str, str]) -> str | None:
    """This program's own interpreter where it fits, else one in PATH."""
    if fits((sys.version_info.major, sys.version_info.minor)):
        return str(Path(sys.base_prefix) / "bin" / "python3") if _base_works() else sys.executable
    for minor in (12, 13, 11, 10):
        found = shutil.which(f"python3.{minor}", path=env.get("PATH"))
        if found is not None and _version_of(Path(found)) == (3, minor):
            return found
    return None


def _base_works() -> bool:
    """Whether the interpreter that this environment was made from can be asked; an environment of one is no base."""
    return _version_of(Path(sys.base_prefix) / "bin" / "python3") == (sys.version_info.major, sys.version_info.minor)


def _installer(folder: Path, uv: str | None, env: Mapping[str, str]) -> list[str]:
    python = environment_python(folder)
    if uv:
        return [uv, "pip", "install", "--python", str(python)]
    raw = (_pip_version(python) or (0, 0)) >= _RAW_PROGRESS
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--prefer-binary"]
    return [*command, "--progress-bar", "raw" if raw else "off"]


def _pip_version(python: Path) -> tuple[int, int] | None:
    parts = read_version("pip", python, {}).split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) > 1 and parts[0].isdecimal() and parts[1].isdecimal() else None


def _version_of(python: Path) -> tuple[int, int] | None:
    try:
        done = subprocess.run([str(python), "-c", _ASK_VERSION], capture_output=True, text=True, timeout=30)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def _discard_half_installed(folder: Path) -> None:
    """pip writes RECORD last: a package without it was being unpacked, and would be taken for installed."""
    for metadata in folder.glob("lib/python*/site-packages/*.dist-info"):
        if not (metadata / "RECORD").exists():
            shutil.rmtree(metadata, ignore_errors=True)


def _check_room(folder: Path, need_bytes: int) -> None:
    place = next(each for each in (folder, *folder.parents) if each.exists())
    free = shutil.disk_usage(place).free + (folder_size(folder) if folder.exists() else 0)
    if free < need_bytes:
        raise FcdError(
            f"It takes about {need_bytes / 1e9:.0f} GB, and {place} has {free / 1e9:.1f} GB free.",
            hint="FCD_DATA_DIR puts fcd's data on another disk.",
        )


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Without what would let packages of elsewhere count as installed."""
    left = {name: value for name, value in environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return left | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def _locked(paths: Paths, name: str) -> Iterator[IO[bytes]]:
    lock = try_lock(engine_folder(paths, name).with_suffix(".lock"))
    if lock is None:
        raise FcdError(f"{name} is being installed or removed by another process.", hint="Wait for it, or end it.")
    try:
        yield lock
    finally:
        lock.close()


@contextmanager
def _log(paths: Paths, name: str) -> Iterator[IO[str]]:
    file = log_path(paths, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", buffering=1) as stream:
        yield stream


def _end(process: subprocess.Popen[str]) -> None:
    """Nothing of it stays, whatever ended the wait."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
            process.wait()
    elif os.name == "posix":
        _signal(process, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends the child when this process is killed."""
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    library = ctypes.CDLL(None)

    def before_exec() -> None:
        library.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))

    return before_exec
