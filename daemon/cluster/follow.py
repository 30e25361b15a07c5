"""Follows a model that a cluster brings, for somebody who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from fcd.wire.admin import LoadEvent, Progress, WorkerInfo

_LOOK_S = 0.2


async def follow_placed(
    workers: Callable[[], Sequence[WorkerInfo]], model: str, idle_s: float
) -> AsyncGenerator[LoadEvent | None, None]:
    """Progress whenever it changes, then one `ready` or `error`; None after `idle_s` without news."""
    loop = asyncio.get_running_loop()
    shown, told = None, loop.time()
    while True:
        event = placed_status([each for each in workers() if model in each.models], model)
        if event != shown:
            shown, told = event, loop.time()
            yield event
        elif loop.time() - told >= idle_s:
            told = loop.time()
            yield None
        if event.type != "progress":
            return
        await asyncio.sleep(_LOOK_S)


def placed_status(workers: Sequence[WorkerInfo], model: str) -> LoadEvent:
    """How far it is now: the best of its workers counts."""
    ready = next((each for each in workers if each.state == "ready"), None)
    if ready is not None:
        return LoadEvent("ready", model, worker=ready)
    coming = next((each for each in workers if each.state in ("starting", "loading", "backoff")), None)
    if coming is not None:
        return LoadEvent("progress", model, progress=coming.progress or Progress(f"{coming.state} on the cluster"))
    if not workers:
        return LoadEvent("error", model, error=f"'{model}' was stopped on the cluster.")
    error = workers[0].error or f"It is {workers[0].state} on the cluster."
    return LoadEvent("error", model, worker=workers[0], error=error)
