"""`fcd tui`: the interface in the terminal."""

from __future__ import annotations

import argparse
import sys

from fcd.cli.command import Parser
from fcd.errors import UsageError


def add_arguments(parser: Parser) -> None:
    parser.epilog = "It starts the daemon when it is not up; leaving it leaves the daemon running."
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--readonly", action="store_true", help="watch only: leave out what changes workers")


def run(args: argparse.Namespace) -> int:
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError("fcd tui needs a terminal.", hint="`fcd chat PROMPT` answers without one.")
    from tui.app import run_tui

    return run_tui(ascii=args.ascii, readonly=args.readonly)
