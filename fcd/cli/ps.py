"""`fcd ps`: the workers that the daemon knows, and what each is doing."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from fcd.cli.access import running_client
from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.output import Column, duration, fitted, print_json, size
from fcd.errors import EXIT_OK

if TYPE_CHECKING:
    from fcd.wire.admin import WorkerInfo


_COLUMNS = (
    Column("NAME", shorten=True),
    Column("STATE", shorten=True),
    Column("DEVICE", drop=1),
    Column("CONTEXT", drop=6),
    Column("MEMORY", drop=2),
    Column("RUNNING", drop=3),
    Column("WAITING", drop=4),
    Column("TOK/S", drop=5),
    Column("TTFT", drop=8),
    Column("UP", drop=7),
    Column("PID", drop=9),
)


def add_arguments(parser: Parser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    return run_async(_list(args.json))


async def _list(as_json: bool) -> int:
    async with running_client() as client:
        workers = await client.workers()
    if as_json:
        print_json({"workers": workers})
        return EXIT_OK
    if not workers:
        print("Nothing is running. `fcd load MODEL` or `fcd chat` loads a model.")
        return EXIT_OK
    now = time.time()
    print(fitted(_COLUMNS, [_row(worker, now) for worker in workers]))
    for worker in workers:
        if worker.error and worker.state != "ready":
            print(f"{worker.name}: {worker.error}")
    return EXIT_OK


def _ends(count: int) -> str:
    """How often its process ended; whether that was followed by a new one, the state says."""
    if not count:
        return ""
    return " (ended once)" if count == 1 else f" (ended {count} times)"


def _row(worker: WorkerInfo, now: float) -> tuple[str, ...]:
    others = [name for name in worker.models if name != worker.name]
    state: str = worker.state
    if worker.progress is not None and worker.progress.total and state in ("starting", "loading"):
        state += f" {100 * worker.progress.done / worker.progress.total:.0f}%"
    return (
        worker.name + (f" ({', '.join(others)})" if others else ""),
        state + _ends(worker.restarts),
        " ".join(part for part in (worker.device, worker.dtype, worker.quantization) if part),
        str(worker.context_length or ""),
        size(worker.memory_bytes),
        str(worker.running),
        str(worker.waiting),
        f"{worker.tokens_per_second:.1f}" if worker.tokens_per_second else "",
        f"{worker.ttft_ms:.0f} ms" if worker.ttft_ms else "",
        duration(now - worker.started_at) if worker.started_at else "",
        str(worker.pid or ""),
    )
