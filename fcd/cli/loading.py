"""Waiting for the daemon to load a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from fcd.errors import ModelLoadError

if TYPE_CHECKING:
    from fcd.client import Client
    from fcd.wire.admin import LoadEvent, LoadRequest, Progress


async def load_and_wait(client: Client, request: LoadRequest, show: Callable[[Progress], None]) -> LoadEvent:
    """The `ready` event. `show` is called with each progress.

    Raises:
        ModelLoadError: with the daemon's reason.
    """
    async with aclosing(client.load(request)) as events:
        async for event in events:
            if event.type == "progress" and event.progress is not None:
                show(event.progress)
            elif event.type == "ready":
                return event
            elif event.type == "error":
                reason, _, hint = event.error.strip().partition("\n")
                raise ModelLoadError(
                    # Most reasons name the folder themselves.
                    reason if request.model in reason else f"{request.model} could not be loaded: {reason}",
                    hint=hint or "`fcd ps` shows its worker, `fcd daemon logs` what happened.",
                )
    raise ModelLoadError(
        f"{request.model} could not be loaded: the daemon ended its answer early.",
        hint="`fcd daemon status` says how it is.",
    )
