"""Where an engine with an environment of its own is found, and whether it can run here.

Nothing of the engine is imported: vLLM pins its own torch and takes many seconds to import. Its version is read from
the metadata that pip left beside it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from fcd.errors import NotFound
from fcd.machine import Gpu, gpus
from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings

NAMES = ("vllm",)
"""Engines that `fcd engine install` knows."""

MARKER = "engine.json"
"""Written last into an environment: without it, it is half made."""

_ASK_TIMEOUT_S = 20
_ASK = "import importlib.metadata as m, sys; sys.stdout.write(m.version(sys.argv[1]))"

Source = Literal["", "installed", "configured"]


class Marker(msgspec.Struct):
    """What stands in a finished environment's marker file."""

    engine: str
    version: str
    python: str
    """The Python version that it was made with."""
    requirements: list[str] = []
    """What was asked of pip."""


class EngineInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One engine as this machine has it."""

    name: str
    version: str = ""
    """Empty where it is not known, such as for a command of one's own."""
    source: Source = ""
    """`installed` by `fcd engine install`, `configured` in config.toml, or empty: there is none."""
    python: str = ""
    """Its interpreter; empty for a command of one's own."""
    command: tuple[str, ...] = ()
    """The words before `serve MODEL ...`."""
    env: dict[str, str] = {}
    """Environment variables for it, from config.toml."""
    path: str = ""
    """The folder of its environment, where `fcd engine install` made it."""
    runnable: bool = False
    """Whether it can run here."""
    reason: str = ""
    """Why it cannot, and what to do."""


def engine_folder(paths: Paths, name: str) -> Path:
    """The virtual environment of an engine that `fcd engine install` makes."""
    return paths.data / "engines" / name


def environment_python(folder: Path) -> Path:
    """A virtual environment's interpreter."""
    return folder / "Scripts" / "python.exe" if os.name == "nt" else folder / "bin" / "python"


def read_marker(folder: Path) -> Marker | None:
    """What a finished environment says of itself; None for one that is half made or not there."""
    try:
        marker = msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.MsgspecError):
        return None
    return marker if environment_python(folder).exists() else None


def find_engine(
    name: str,
    settings: Settings,
    *,
    paths: Paths | None = None,
    environ: Mapping[str, str] | None = None,
    probe: Callable[[], list[Gpu]] = gpus,
) -> EngineInfo:
    """What there is of an engine: config.toml's command, its interpreter, or what was installed, in this order.

    What config.toml names is taken at its word about the hardware: it may be a build for another kind of it. Blocks: it
    may start an interpreter to read a version, and asks the GPU's driver.

    Raises:
        NotFound: no such engine is known.
    """
    if name not in NAMES:
        raise NotFound(f"There is no engine '{name}' with an environment of its own. There is: {', '.join(NAMES)}.")
    wanted = settings.engines.vllm
    env = dict(wanted.env)
    if wanted.command:
        return _from_command(name, wanted.command, env, os.environ if environ is None else environ)
    if wanted.python:
        return _from_python(name, Path(wanted.python).expanduser(), env)
    return _installed(name, engine_folder(paths or resolve_paths(), name), env, probe)


def serve_command(name: str, python: str) -> tuple[str, ...]:
    """How an environment's engine is started. As a module: a script's first line breaks when its folder is moved."""
    return {"vllm": (python, "-m", "vllm.entrypoints.cli.main")}[name]


def _from_command(name: str, command: str, env: dict[str, str], environ: Mapping[str, str]) -> EngineInfo:
    def info(runnable: bool, reason: str = "", words: tuple[str, ...] = (), version: str = "") -> EngineInfo:
        return EngineInfo(
            name, version=version, source="configured", command=words, env=env, runnable=runnable, reason=reason
        )

    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        return info(False, f"engines.{name}.command cannot be read: {error}.")
    if not words:
        return info(False, f"engines.{name}.command is empty.")
    program = shutil.which(words[0], path=env.get("PATH", environ.get("PATH")))
    if program is None:
        return info(False, f"engines.{name}.command is '{words[0]}', which is not in PATH.", words)
    neighbour = Path(program).resolve().parent / "python"
    version = read_version(name, neighbour, env) if neighbour.exists() else ""
    return info(True, words=(program, *words[1:]), version=version)


def _from_python(name: str, python: Path, env: dict[str, str]) -> EngineInfo:
    def info(runnable: bool, reason: str = "", version: str = "") -> EngineInfo:
        command = serve_command(name, str(python))
        return EngineInfo(name, version, "configured", str(python), command, env, runnable=runnable, reason=reason)

    if not os.access(python, os.X_OK) or python.is_dir():
        return info(False, f"engines.{name}.python is {python}, which is no program that can be started.")
    version = read_version(name, python, env)
    if not version:
        return info(False, f"engines.{name}.python is {python}, whose environment has no {name}.")
    return info(True, version=version)


def _installed(name: str, folder: Path, env: dict[str, str], probe: Callable[[], list[Gpu]]) -> EngineInfo:
    marker = read_marker(folder)
    if marker is None:
        if not probe():
            return EngineInfo(name, env=env, reason=f"It is not installed. {no_gpu_reason()}")
        begun = " An earlier install did not end" if folder.exists() else ""
        does = "finishes it" if begun else "installs it"
        reason = f"It is not installed.{begun + ':' if begun else ''} `fcd engine install {name}` {does}."
        return EngineInfo(name, env=env, reason=reason)
    python = str(environment_python(folder))
    reason = "" if probe() else no_gpu_reason()
    return EngineInfo(
        name,
        marker.version,
        "installed",
        python,
        serve_command(name, python),
        env,
        str(folder),
        runnable=not reason,
        reason=reason,
    )


def no_gpu_reason() -> str:
    """Why there is nothing for vLLM's ordinary wheels to run on."""
    return "vLLM's packages need an NVIDIA GPU, and this machine's driver shows none."


def read_version(package: str, python: Path, env: Mapping[str, str]) -> str:
    """The version of a package in an interpreter's environment, without importing it; empty when it has none."""
    try:
        done = subprocess.run(
            [str(python), "-c", _ASK, package],
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
            env={**os.environ, **env},
            # An interpreter looks for modules where it is started.
            cwd=tempfile.gettempdir(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
