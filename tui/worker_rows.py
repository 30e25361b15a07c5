"""Workers as rows of a table: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fcd.wire.admin import WorkerInfo
from tui import formats
from tui.glyphs import Glyphs

COLUMNS = (
    ("NAME", 14, "left"), ("MODEL", 16, "left"), ("DEVICE", 8, "left"), ("STATE", 9, "left"), ("Q", 3, "right"),
    ("RUN", 3, "right"), ("TOK/S", 6, "right"), ("TTFT", 6, "right"), ("MEM", 5, "right"),
)  # fmt: skip
"""Title, width at 80 columns, side."""
STATES: dict[str, str] = {
    "ready": "text-success",
    "failed": "text-error",
    "lost": "text-error",
    "backoff": "text-warning",
    "pending": "text-warning",
    "starting": "text-warning",
    "loading": "text-warning",
    "stopping": "text-warning",
    "stopped": "foreground",
    "asleep": "text-primary",
}
"""The theme's colour for each state."""
SORTS: tuple[tuple[str, Callable[[WorkerInfo], object]], ...] = (
    ("name", lambda worker: worker.name),
    ("model", lambda worker: worker.models),
    ("state", lambda worker: worker.state),
    ("load", lambda worker: -(worker.running + worker.waiting)),
    ("memory", lambda worker: -worker.memory_bytes),
)


def cells(worker: WorkerInfo, glyphs: Glyphs) -> tuple[str, ...]:
    """The texts of one row, in the order of COLUMNS."""
    dash = glyphs.dash
    quantized = f" {worker.quantization}" if worker.quantization else ""
    live = worker.state in ("ready", "stopping")
    return (
        worker.name,
        (worker.models[0] if worker.models else dash) + quantized,
        worker.device or dash,
        worker.state,
        str(worker.waiting) if live else dash,
        str(worker.running) if live else dash,
        formats.rate(worker.tokens_per_second) if worker.tokens_per_second else dash,
        f"{worker.ttft_ms / 1000:.2f}" if worker.ttft_ms else dash,
        formats.size(worker.memory_bytes) if worker.memory_bytes else dash,
    )


def matching(workers: Iterable[WorkerInfo], words: str) -> list[WorkerInfo]:
    """Workers in whose row all the words occur."""
    wanted = words.lower().split()
    found = []
    for worker in workers:
        text = " ".join([worker.name, *worker.models, worker.device, worker.state, worker.engine]).lower()
        if all(word in text for word in wanted):
            found.append(worker)
    return found


def summary(workers: Iterable[WorkerInfo]) -> str:
    """`3 up, 1 loading`."""
    counts: dict[str, int] = {}
    for worker in workers:
        word = {"ready": "up", "starting": "loading"}.get(worker.state, worker.state)
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items(), key=lambda pair: pair[0] != "up"))


def facts(worker: WorkerInfo, glyphs: Glyphs, now: float) -> str:
    """What the table has no column for."""
    parts = [", ".join(worker.models), worker.engine, worker.dtype, worker.quantization]
    parts.append(f"{formats.context(worker.context_length)} ctx" if worker.context_length else "")
    parts.append(f"pid {worker.pid}" if worker.pid else "")
    parts.append("" if worker.local else f"remote {worker.address}")
    parts.append(f"up {formats.seconds(max(0.0, now - worker.started_at))}" if worker.started_at else "")
    parts.append(f"restarts {worker.restarts}" if worker.restarts else "")
    parts += worker.notes
    return f" {glyphs.separator} ".join(part for part in parts if part)
