"""`fcd engine`: what runs models here, and engines with an environment of their own."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.output import note, print_json, size, table
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, NotFound, UsageError

if TYPE_CHECKING:
    from fcd.paths import Paths
    from fcd.settings import Settings

_LLAMA = "llama-server"
_LLAMA_TIMEOUT_S = 10

run = run_subcommand


class Row(msgspec.Struct):
    """One engine, as `fcd engine list` shows it."""

    name: str
    version: str = ""
    source: str = ""
    """`built in`, `installed`, `configured`, `PATH`, or empty: it is not here."""
    path: str = ""
    runnable: bool = False
    reason: str = ""
    """Why it cannot run here."""


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    add_json(group.add("list", "list what can run models here, and why the rest cannot", _list))
    install = group.add(
        "install",
        "install an engine into an environment of its own",
        _install,
        description="Install an engine into an environment of its own, under fcd's data folder. An install that was"
        " interrupted is finished by the next. pip's settings (PIP_INDEX_URL, PIP_FIND_LINKS ...) hold, and uv does"
        " the work where it is in PATH.",
        epilog="Example: fcd engine install vllm",
    )
    install.add_argument("name", metavar="NAME", help="the engine: vllm")
    install.add_argument(
        "--version", default="", metavar="V", help="its version (default: the one that fits the GPU's driver)"
    )
    install.add_argument("--force", action="store_true", help="install it though it cannot run here")
    add_json(install)
    remove = group.add("remove", "remove an engine's environment", _remove)
    remove.add_argument("name", metavar="NAME", help="the engine, as `fcd engine list` shows it")
    remove.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _open() -> tuple[Paths, Settings]:
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    paths = resolve_paths()
    return paths, load_settings(paths.config_file)


def _known(name: str) -> None:
    from fcd.engines.environment import NAMES

    if name in ("transformers", "command"):
        raise UsageError(f"The engine '{name}' comes with fcd itself.", hint="`fcd engine list` shows what is here.")
    if name not in NAMES:
        raise NotFound(f"There is no engine '{name}' to install. There is: {', '.join(NAMES)}.")


def _list(args: argparse.Namespace) -> int:
    paths, settings = _open()
    rows = list(_rows(paths, settings))
    if args.json:
        print_json({"engines": rows})
        return EXIT_OK
    print(
        table(
            ("NAME", "VERSION", "FROM", "RUNS HERE"),
            [(row.name, row.version or "-", row.source or "-", "yes" if row.runnable else "no") for row in rows],
        )
    )
    for row in rows:
        if row.reason:
            print(f"{row.name}: {row.reason}")
    return EXIT_OK


def _rows(paths: Paths, settings: Settings) -> Iterator[Row]:
    from fcd.engines.environment import NAMES, find_engine

    yield _transformers()
    for name in NAMES:
        found = find_engine(name, settings, paths=paths)
        where = found.path or found.python or " ".join(found.command)
        yield Row(name, found.version, found.source, where, found.runnable, found.reason)
    yield _llama()
    yield from _commands(settings)


def _transformers() -> Row:
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("transformers", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            reason = f"{package} is not installed: {sys.executable} -m pip install {package}"
            return Row("transformers", source="built in", path=sys.prefix, reason=reason)
    shown = f"{versions['transformers']} (torch {versions['torch']})"
    return Row("transformers", shown, "built in", sys.prefix, runnable=True)


def _llama() -> Row:
    """llama.cpp's server, which .gguf files need."""
    program = shutil.which(_LLAMA)
    if program is None:
        reason = f"{_LLAMA} is not in PATH; .gguf files need it: https://github.com/ggml-org/llama.cpp"
        return Row("llama.cpp", reason=reason)
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_LLAMA_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Row("llama.cpp", source="PATH", path=program, reason=f"{program} --version fails: {error}")
    said = next((line for line in (done.stderr + done.stdout).splitlines() if line.startswith("version:")), "")
    return Row("llama.cpp", said.removeprefix("version:").strip(), "PATH", program, runnable=True)


def _commands(settings: Settings) -> Iterator[Row]:
    """Models of config.toml that bring a command of their own."""
    import shlex

    for name, model in sorted(settings.models.items()):
        if not model.command:
            continue
        try:
            program = shlex.split(model.command)[0]
        except (ValueError, IndexError):
            yield Row(f"command {name}", source="configured", reason=f"models.{name}.command cannot be read.")
            continue
        there = shutil.which(program)
        reason = "" if there else f"{program} is not in PATH."
        yield Row(f"command {name}", "", "configured", there or program, bool(there), reason)


def _install(args: argparse.Namespace) -> int:
    _known(args.name)
    from fcd.cli.progress import ProgressDisplay
    from fcd.engines.install import install
    from fcd.engines.releases import choose
    from fcd.machine import GpuProbe

    paths, settings = _open()
    probe = GpuProbe()
    try:
        probe()
        choice = choose(probe.reading, args.version, why_none=probe.note)
    finally:
        probe.close()
    if choice.reason and not args.force:
        raise FcdError(choice.reason, hint="--force installs it all the same.")
    note(
        f"Installing {args.name} {choice.version}"
        + (f" (CUDA {choice.cuda})" if choice.cuda else "")
        + "; this takes about 10 GB and some minutes."
    )
    paths.create()
    try:
        with ProgressDisplay(args.name) as show:
            marker = install(args.name, choice.version, paths, show)
    except KeyboardInterrupt:
        note(f"Stopped. `fcd engine install {args.name}` goes on from here; `fcd engine remove {args.name}` cleans up.")
        raise
    if args.json:
        print_json(marker)
        return EXIT_OK
    print(f"{args.name} {marker.version} is installed.")
    if choice.reason:
        note(choice.reason)
    if settings.engines.vllm.command or settings.engines.vllm.python:
        note("engines.vllm in config.toml names another one, which is what will be used.")
    return EXIT_OK


def _remove(args: argparse.Namespace) -> int:
    import asyncio

    _known(args.name)
    from fcd.engines.environment import engine_folder
    from fcd.engines.install import folder_size, remove

    paths, _ = _open()
    folder = engine_folder(paths, args.name)
    if not folder.exists():
        raise NotFound(f"{args.name} is not installed by fcd.", hint="`fcd engine list` shows what is here.")
    asyncio.run(_refuse_used(args.name))
    if not args.yes and not _confirm(f"Remove {args.name} ({size(folder_size(folder)) or '0 B'}, {folder})?"):
        note("Nothing was removed.")
        return EXIT_FAILED
    print(f"Removed {args.name}: {size(remove(args.name, paths)) or '0 B'} are free again.")
    return EXIT_OK


async def _refuse_used(name: str) -> None:
    from fcd.cli.access import ask_workers

    for worker in await ask_workers():
        if worker.local and worker.engine == name and worker.state not in ("failed", "stopped"):
            raise FcdError(
                f"{name} is in use (worker {worker.name}).", hint=f"`fcd worker stop {worker.name}` ends it."
            )


def _confirm(question: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "fcd engine remove asks before it removes, and there is no terminal to ask.", hint="--yes does it unasked."
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
