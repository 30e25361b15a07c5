"""`fcd pull REPO`: download a model, going on where an earlier download stopped."""

from __future__ import annotations

import argparse
import signal
import threading
from typing import TYPE_CHECKING

from fcd.cli.command import Parser, add_json
from fcd.cli.output import note, print_json, size
from fcd.cli.progress import ProgressDisplay
from fcd.errors import EXIT_OK

if TYPE_CHECKING:
    from pathlib import Path

    from fcd.catalog import ProgressCallback, Reference
    from fcd.wire.admin import Progress


def add_arguments(parser: Parser) -> None:
    parser.epilog = "HF_TOKEN signs in, HF_ENDPOINT names another hub, HF_HOME moves the cache."
    parser.add_argument("repo", metavar="REPO", help="owner/name on the Hugging Face hub")
    parser.add_argument("--revision", default="", metavar="REV", help="a branch, tag or commit")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="take pickled weights, which can run code, if there are no others"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from fcd.catalog import resolve
    from fcd.catalog.hub import folder_size
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    reference = resolve(args.repo, load_settings(resolve_paths().config_file), revision=args.revision)
    if reference.kind in ("builtin", "folder"):
        print(f"{reference.name} is on this machine already: {reference.path}")
        return EXIT_OK
    with ProgressDisplay(reference.repo) as show:
        folder = _download(reference, show, allow_pickle=args.allow_pickle)
    if args.json:
        print_json({"repo": reference.repo, "path": str(folder), "size_bytes": folder_size(folder)})
    else:
        print(f"{reference.repo} is here ({size(folder_size(folder))}). `fcd chat -m {reference.repo}` talks to it.")
    return EXIT_OK


def _download(reference: Reference, show: ProgressCallback, *, allow_pickle: bool) -> Path:
    """Ctrl-C ends the downloading threads too: what they have written stays, to go on from."""
    from fcd.catalog import ensure_local

    stopping = threading.Event()

    def step(progress: Progress) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        show(progress)

    def stop(number: int, frame: object) -> None:
        stopping.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        return ensure_local(reference, step, allow_pickle=allow_pickle, refresh=True)
    except KeyboardInterrupt:
        note(f"Stopped. `fcd pull {reference.repo}` goes on where this ended.")
        raise
    finally:
        signal.signal(signal.SIGINT, before)
