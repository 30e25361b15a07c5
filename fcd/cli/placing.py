"""`fcd worker start --on ray`: what a cluster is asked for, and the logs of what runs there."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fcd.cli.command import Parser
from fcd.cli.model_flags import positive
from fcd.errors import UsageError

if TYPE_CHECKING:
    from fcd.client import Client
    from fcd.wire.admin import PlaceRequest, WorkerInfo

_FOLLOW_S = 1.0
_FOLLOWED_LINES = 1000
TIMEOUT_S = 90.0
"""A cluster may take a while to answer for the first time."""


def add_place_flags(parser: Parser) -> None:
    group = parser.add_argument_group(
        "placing workers on a cluster", "With --engine vllm, a model that no node has the GPUs for goes over several."
    )
    group.add_argument(
        "--on",
        default="local",
        metavar="PLACE",
        help="where they run: local (default); ray, the cluster that this machine is a node of; or ray://HEAD[:PORT]",
    )
    group.add_argument("--num-cpus", type=positive, default=0, metavar="N", help="CPUs that each reserves (default: 1)")
    group.add_argument(
        "--memory", default="", metavar="8GiB", help="RAM that each reserves (default: as the model's files say)"
    )
    group.add_argument("--vram", default="", metavar="16GiB", help="GPU memory that each reserves")


def place_request(args: argparse.Namespace) -> PlaceRequest | None:
    """None when the workers are to run on this machine.

    Raises:
        UsageError: a place that is none, or flags that only a cluster can follow.
    """
    from fcd.wire.admin import PlaceRequest

    if args.on == "local":
        for flag, value in (("--num-cpus", args.num_cpus), ("--memory", args.memory), ("--vram", args.vram)):
            if value:
                raise UsageError(f"{flag} is reserved on a cluster: give --on ray as well.")
        return None
    if args.on != "ray" and not args.on.startswith("ray://"):
        raise UsageError(f"--on {args.on}: it is local, ray, or ray://HEAD[:PORT].")
    return PlaceRequest(args.on, args.num_cpus or 1, args.memory, args.vram)


def say_placed(workers: Sequence[WorkerInfo]) -> None:
    """Each worker with where it runs, or why it does not."""
    for worker in workers:
        where = f"  on {worker.node}" if worker.node else ""
        print(f"{worker.name}  {worker.state}{where}")
        if worker.error:
            print(f"  {worker.error}")


async def follow_placed(client: Client, name: str) -> None:
    """Print what is added to a log on a node, until Ctrl-C."""
    shown = await client.worker_log(name, _FOLLOWED_LINES)
    while True:
        await asyncio.sleep(_FOLLOW_S)
        lines = await client.worker_log(name, _FOLLOWED_LINES)
        for line in added_lines(shown, lines):
            print(line)
        sys.stdout.flush()
        shown = lines


def added_lines(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """The lines of `now` that follow the longest end of `before` with which `now` begins."""
    for start in range(len(before)):
        kept = len(before) - start
        if list(before[start:]) == list(now[:kept]):
            return list(now[kept:])
    return list(now)
