"""How `fcd worker list` and `fcd worker show` print workers for people; `--json` has every figure as it is."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from fcd.cli.output import Column, duration, fitted, printable, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fcd.wire.admin import WorkerInfo

_COLUMNS = (
    Column("NAME", shorten=True),
    Column("MODELS", drop=4, shorten=True),
    Column("STATE"),
    Column("DEVICE"),
    Column("RUNNING", drop=2),
    Column("WAITING", drop=3),
    Column("TOK/S", drop=1),
)


def worker_table(workers: Sequence[WorkerInfo], *, width: int | None = None) -> str:
    """One line for each; `width` as in `fitted`."""
    rows = [
        (
            worker.name,
            ", ".join(worker.models) if worker.models != [worker.name] else "",
            worker.state,
            worker.device or "-",
            str(worker.running),
            str(worker.waiting),
            f"{worker.tokens_per_second:.1f}" if worker.tokens_per_second else "",
        )
        for worker in workers
    ]
    return fitted(_COLUMNS, rows, width=width)


def worker_facts(worker: WorkerInfo, now: float) -> list[tuple[str, str]]:
    """What is known of one, as label and text; `now` is Unix time."""
    said = (
        ("name", worker.name),
        ("models", ", ".join(worker.models)),
        ("state", _state(worker)),
        ("error", worker.error),
        ("runs", _where(worker)),
        ("address", worker.address),
        ("pid", str(worker.pid or "")),
        ("engine", worker.engine),
        ("device", " ".join(filter(None, (worker.device, *(f"GPU {number}" for number in worker.gpus))))),
        ("dtype", worker.dtype),
        ("quantization", worker.quantization),
        ("context", f"{worker.context_length} tokens" if worker.context_length else ""),
        ("memory", size(worker.memory_bytes)),
        ("KV cache", f"{100 * worker.kv_used:.1f} % in use" if worker.kv_used else ""),
        ("requests", f"{worker.running} running, {worker.waiting} waiting"),
        ("speed", f"{worker.tokens_per_second:.1f} tokens/s" if worker.tokens_per_second else ""),
        ("first token", f"after {worker.ttft_ms:.0f} ms" if worker.ttft_ms else ""),
        ("tokens", _tokens(worker)),
        ("restarts", str(worker.restarts or "")),
        ("started", _when(worker.started_at, now)),
        ("last used", _when(worker.last_used, now)),
        ("capabilities", ", ".join(worker.capabilities)),
        ("notes", " ".join(worker.notes)),
        ("log", worker.log),
    )
    return [(label, printable(text)) for label, text in said if text]


def _where(worker: WorkerInfo) -> str:
    if worker.on:
        return f"on the cluster {worker.on}" + (f", node {worker.node}" if worker.node else "")
    return "here, started by this daemon" if worker.local else "elsewhere"


def _state(worker: WorkerInfo) -> str:
    progress = worker.progress
    if progress is None:
        return worker.state
    share = f" {100 * progress.done / progress.total:.0f} %" if progress.total else ""
    return f"{worker.state}: {progress.stage}{share}"


def _tokens(worker: WorkerInfo) -> str:
    if not worker.prompt_tokens and not worker.generated_tokens:
        return ""
    return f"{worker.prompt_tokens:,} read, {worker.generated_tokens:,} written since it started"


def _when(at: float, now: float) -> str:
    if not at:
        return ""
    clock = datetime.datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{clock} ({duration(max(0.0, now - at))} ago)"
