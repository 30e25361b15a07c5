"""`fcd daemon join` and `fcd daemon leave`: this daemon's models, offered at another daemon."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fcd.cli.command import Group, add_json
from fcd.cli.output import print_json, table
from fcd.cli.secret_file import read_secret
from fcd.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from fcd.client import Client


def add_neighbours(group: Group) -> None:
    join = group.add(
        "join",
        "offer this daemon's models at another daemon",
        _join,
        description="Offer this daemon's models at another daemon, from now on and after restarts. The other one sends"
        " requests here, so it must reach this daemon. Without a URL: list the daemons that were joined.",
        epilog="Example: fcd daemon join http://head:8000 --token-file token.txt",
    )
    join.add_argument("url", nargs="?", default="", metavar="URL", help="the other daemon; may carry /join/TOKEN")
    join.add_argument("--token-file", type=Path, metavar="FILE", help="file with a join token of the other daemon")
    add_json(join)
    leave = group.add("leave", "take this daemon's models back from another daemon", _leave)
    leave.add_argument("url", metavar="URL", help="the other daemon, as `fcd daemon join` lists it")


async def _join(args: argparse.Namespace) -> int:
    from fcd.wire.neighbours import JoinRequest

    async with _client() as client:
        if not args.url:
            return await _list(client, args.json)
        token = read_secret(args.token_file, "join token") if args.token_file is not None else ""
        if not token and "/join/" not in args.url:
            raise UsageError(
                "A join token of the other daemon is needed: --token-file FILE.",
                hint="Make one with `fcd token create` on its machine.",
            )
        head = await client.join(JoinRequest(args.url, token))
    if args.json:
        print_json(head)
        return EXIT_OK
    print(f"{head.url} now has {len(head.models)} models of this daemon, but for those that it has itself.")
    return EXIT_OK


async def _list(client: Client, as_json: bool) -> int:
    heads = await client.heads()
    if as_json:
        print_json(heads)
    elif not heads:
        print("This daemon has joined no other. `fcd daemon join URL --token-file FILE` does.")
    else:
        rows = [(head.url, head.state, str(len(head.models)), head.error or "-") for head in heads]
        print(table(("URL", "STATE", "MODELS", "PROBLEM"), rows))
    return EXIT_OK


async def _leave(args: argparse.Namespace) -> int:
    async with _client() as client:
        await client.leave(args.url)
    print(f"{args.url} has no models of this daemon any more.")
    return EXIT_OK


def _client() -> Client:
    from fcd.client import Client

    return Client()
