"""`fcd key`: API keys."""

from __future__ import annotations

import argparse

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.credentials import NEVER, create, listed, print_created, print_list, revoke, ttl_seconds

run = run_subcommand


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    made = group.add("create", "make an API key and show it, once", _create)
    made.add_argument("name", nargs="?", default="", metavar="NAME", help="what it is for, to find it in the list")
    made.add_argument(
        "--scope",
        choices=("inference", "admin"),
        default="inference",
        help="inference: the OpenAI routes; admin: everything (default: inference)",
    )
    made.add_argument(
        "--ttl", default=NEVER, metavar="TIME", help="how long it is good for, such as 30d (default: never)"
    )
    add_json(made)
    shown = group.add("list", "list the API keys; their secrets are kept nowhere", _list)
    add_json(shown)
    gone = group.add("revoke", "revoke an API key", _revoke)
    gone.add_argument("key", metavar="ID", help="its id or its name, from `fcd key list`")


async def _create(args: argparse.Namespace) -> int:
    made = await create("key", name=args.name, scope=args.scope, ttl_s=ttl_seconds(args.ttl))
    advice = (
        "Send it as 'Authorization: Bearer KEY'. From now on the OpenAI routes need a key, on this machine too;\n"
        "fcd's own commands here go on without one."
    )
    return print_created(made, as_json=args.json, advice=advice)


async def _list(args: argparse.Namespace) -> int:
    none = "There are no API keys: only programs on this machine may use the daemon."
    return print_list(await listed("key"), as_json=args.json, none=none)


async def _revoke(args: argparse.Namespace) -> int:
    info = await revoke("key", args.key)
    print(f"The key {info.id} is revoked.")
    return 0
