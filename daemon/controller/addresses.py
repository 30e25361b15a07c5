"""Addresses of workers for FastChat's clients, which go there by themselves: a model that does not run is loaded."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fcd.errors import ApiError
from fcd.wire.controller import WorkerAddress

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

log = logging.getLogger("fcd.controller")

LOAD_WAIT_S = 90.0
"""FastChat's clients wait 100 s for an answer."""


async def worker_address(controller: Controller, model: str) -> WorkerAddress:
    """The address of a worker that serves the model; empty, with the reason where there is one, when none does."""
    address = controller.fastchat.address(model)
    if address:
        return WorkerAddress(address)
    try:
        async with asyncio.timeout(LOAD_WAIT_S):
            lease = await controller.acquire(model)
    except TimeoutError:
        reason = f"'{model}' was not loaded within {LOAD_WAIT_S:g} s; it may be a little later."
        log.warning("a client of FastChat waits no longer: %s", reason)
        return WorkerAddress("", reason)
    except ApiError as error:
        if error.status == 404:
            return WorkerAddress("")
        log.warning("no worker for a client of FastChat: %s", error.message)
        return WorkerAddress("", error.message)
    lease.release()
    return WorkerAddress(controller.fastchat.address(model))
