"""`fcd load MODEL`: load a model before it is asked for, or say what that would need."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.model_flags import add_model_flags, for_daemon, model_options
from fcd.cli.output import note, print_json, size
from fcd.errors import EXIT_OK, UsageError

if TYPE_CHECKING:
    from fcd.client import Client
    from fcd.wire.admin import LoadRequest


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name that `fcd ls` lists, a folder, or a repo")
    parser.add_argument(
        "--estimate", action="store_true", help="only say how much memory it needs, by the model's own files"
    )
    parser.add_argument("--ttl", default="", metavar="30m", help="the same as --keep-alive")
    add_model_flags(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.ttl and args.keep_alive:
        raise UsageError("--ttl is another name of --keep-alive: give one of them.")
    args.keep_alive = args.ttl or args.keep_alive
    options = model_options(args, keep_alive="--ttl" if args.ttl else "--keep-alive")
    if args.estimate:
        from fcd.cli.estimate import print_estimate

        return run_async(print_estimate(args.model, options, as_json=args.json))
    from fcd.cli.access import starting_client
    from fcd.wire.admin import LoadRequest

    client = starting_client()
    return run_async(_load(client, LoadRequest(for_daemon(args.model), options), as_json=args.json))


async def _load(client: Client, request: LoadRequest, *, as_json: bool) -> int:
    from fcd.cli.loading import load_and_wait
    from fcd.cli.progress import ProgressDisplay

    try:
        with ProgressDisplay(request.model) as show:
            ready = await load_and_wait(client, request, show)
    except asyncio.CancelledError:
        note("The daemon goes on loading; `fcd ps` shows how far it is, `fcd unload` ends it.")
        raise
    finally:
        await client.close()
    for each in ready.notes:
        note(each)
    if as_json:
        print_json({"model": ready.model, "worker": ready.worker})
        return EXIT_OK
    facts = ready.worker
    details = [] if facts is None else [facts.device, facts.dtype, facts.quantization, size(facts.memory_bytes)]
    if facts is not None and facts.context_length:
        details.append(f"context {facts.context_length} tokens")
    shown = ", ".join(part for part in details if part)
    print(f"{ready.model} is ready" + (f" ({shown})." if shown else "."))
    return EXIT_OK
