"""`fcd rm MODEL`: remove a downloaded model from the hub's cache."""

from __future__ import annotations

import argparse
import sys

from fcd.cli.access import ask_workers
from fcd.cli.command import Parser, run_async
from fcd.cli.output import note, size
from fcd.errors import EXIT_FAILED, EXIT_OK, FcdError, UsageError


def add_arguments(parser: Parser) -> None:
    parser.epilog = "Only the hub's cache is touched; built-in models, aliases and folders of your own stay."
    parser.add_argument("model", metavar="MODEL", help="a downloaded repo, as `fcd ls` names it")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    from fcd.catalog.hub import hub_cache, remove_repo, repo_folder
    from fcd.catalog.reference import is_repo_name

    repo = args.model
    _refuse_others(repo)
    folder = repo_folder(repo)
    if not (is_repo_name(repo) or "/" not in repo) or folder.parent != hub_cache() or not folder.is_dir():
        raise _not_cached(repo)
    run_async(_refuse_loaded(repo))
    taken = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not args.yes and not _confirm(f"Remove {repo} ({size(taken)}, {folder})?"):
        note("Nothing was removed.")
        return EXIT_FAILED
    print(f"Removed {repo}: {size(remove_repo(repo)) or '0 B'} are free again.")
    return EXIT_OK


def _refuse_others(name: str) -> None:
    from fcd.builtin import is_builtin
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    if is_builtin(name):
        raise FcdError(f"{name} is built in and goes with fcd itself.")
    settings = load_settings(resolve_paths().config_file)
    if name in settings.aliases or name in settings.models:
        raise FcdError(
            f"{name} is a name from config.toml, not a download.", hint="`fcd config edit` takes it out there."
        )


async def _refuse_loaded(repo: str) -> int:
    for worker in await ask_workers():
        if worker.local and any(name.partition("@")[0] == repo for name in worker.models):
            raise FcdError(f"{repo} is loaded (worker {worker.name}).", hint=f"`fcd unload {repo}` first.")
    return EXIT_OK


def _not_cached(name: str) -> FcdError:
    from fcd.catalog import near_names
    from fcd.errors import NotFound
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    near = near_names(name, load_settings(resolve_paths().config_file))
    maybe = f" Did you mean {near[0]}?" if near else ""
    return NotFound(f"{name[:80]} is not in the hub's cache.{maybe}", hint="`fcd ls` lists what is here.")


def _confirm(question: str) -> bool:
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            "fcd rm asks before it removes, and there is no terminal to ask.", hint="--yes does it unasked."
        )
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
