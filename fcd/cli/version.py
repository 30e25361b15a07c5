"""`fcd version`."""

from __future__ import annotations

import argparse
import json
import platform

from fcd import __version__
from fcd.cli.command import Parser, add_json
from fcd.errors import EXIT_OK


def add_arguments(parser: Parser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.json:
        python, machine = platform.python_version(), platform.platform()
        print(json.dumps({"version": __version__, "python": python, "platform": machine}))
    else:
        print(f"fcd {__version__}")
    return EXIT_OK
