"""`fcd tui`: the interface in the terminal."""

from __future__ import annotations

import argparse
import gc
import sys

from fcd.cli.command import Parser
from fcd.errors import UsageError


def add_arguments(parser: Parser) -> None:
    parser.epilog = "It starts the daemon when it is not up; leaving it leaves the daemon running."
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--readonly", action="store_true", help="watch only: leave out what changes workers")
    parser.add_argument("--web", action="store_true", help="serve it to browsers on this machine")
    parser.add_argument("--port", type=_port, metavar="N", help="where to serve browsers; any free port otherwise")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; give 1 to 65535")
    return int(text)


def run(args: argparse.Namespace) -> int:
    if args.port is not None and not args.web:
        raise UsageError("--port goes with --web.")
    if not args.web and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("fcd tui needs a terminal.", hint="`fcd chat PROMPT` answers without one.")
    if not args.web:
        gc.disable()  # until the first frame all is kept that is made, and looking through it takes a fifth of the time
    from tui.app import run_tui

    return run_tui(ascii=args.ascii, readonly=args.readonly, web=args.web, port=args.port)
