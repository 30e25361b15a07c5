"""`fcd token`: join tokens, with which workers on other machines register here."""

from __future__ import annotations

import argparse

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.credentials import NEVER, create, listed, print_created, print_list, revoke, ttl_seconds

run = run_subcommand


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    made = group.add("create", "make a join token and show it, once", _create)
    made.add_argument("name", nargs="?", default="", metavar="NAME", help="what it is for, to find it in the list")
    made.add_argument(
        "--ttl", default=NEVER, metavar="TIME", help="how long it is good for, such as 1h (default: never)"
    )
    add_json(made)
    shown = group.add("list", "list the join tokens; their secrets are kept nowhere", _list)
    add_json(shown)
    gone = group.add("revoke", "revoke a join token", _revoke)
    gone.add_argument("token", metavar="ID", help="its id or its name, from `fcd token list`")


async def _create(args: argparse.Namespace) -> int:
    made = await create("token", name=args.name, scope="join", ttl_s=ttl_seconds(args.ttl))
    advice = "Save it in a file on the other machine: `fcd worker run MODEL --controller URL --token-file FILE`."
    return print_created(made, as_json=args.json, advice=advice)


async def _list(args: argparse.Namespace) -> int:
    return print_list(await listed("token"), as_json=args.json, none="There are no join tokens.")


async def _revoke(args: argparse.Namespace) -> int:
    info = await revoke("token", args.token)
    print(f"The token {info.id} is revoked. Workers that used it are refused from their next heartbeat on.")
    return 0
