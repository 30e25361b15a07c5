"""`fcd unload MODEL`."""

from __future__ import annotations

import argparse

from fcd.cli.access import running_client
from fcd.cli.command import Parser, run_async
from fcd.cli.model_flags import for_daemon
from fcd.errors import EXIT_OK


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name that `fcd ps` lists")


def run(args: argparse.Namespace) -> int:
    return run_async(_unload(args.model))


async def _unload(model: str) -> int:
    async with running_client(timeout_s=120) as client:
        await client.unload(for_daemon(model))
    print(f"{model} is unloaded.")
    return EXIT_OK
