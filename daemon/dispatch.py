"""The seam between the gateway, which relays requests, and the controller, which knows the workers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, Protocol

import msgspec

from fcd.wire.admin import ModelInfo


class Target(msgspec.Struct, frozen=True):
    """Where a request for a model goes. `socket` is preferred where it is not empty."""

    worker: str
    dialect: str = "openai"
    """`openai`: bytes are relayed untouched. `fastchat`: frames of worker_generate_stream are translated."""
    host: str = "127.0.0.1"
    port: int = 0
    socket: str = ""
    tls: bool = False
    base_path: str = ""
    """What stands before `/v1` in the worker's URL."""
    api_key: str = ""
    names: dict[str, str] = {}
    """Names here that the worker calls otherwise, with what it calls them."""
    serves: tuple[str, ...] = ()
    """The only names that it answers to, where it is strict: requests under any other are sent under the first."""
    fields: dict[str, list[str]] = {}
    """By route, the fields that it reads, where it passes over others without a word."""
    images: Literal["checks", "takes", "refuses"] = "checks"
    """What it does with images of chats: it `checks` them itself (a worker or daemon of fcd), or sees them or does not,
    and is asked nothing that the gateway has not checked."""


class Lease(Protocol):
    """The right to send one request to a worker; holding it keeps the worker from being evicted."""

    target: Target

    def release(self, *, failed: bool = False, reason: str = "") -> None:
        """Give it back, once, whatever happened. `failed`: the worker did not answer; probe it before its next use."""
        ...


class Dispatcher(Protocol):
    """Finds (or loads) a worker for a model."""

    async def acquire(
        self,
        model: str,
        *,
        exclude: Collection[str] = (),
        keep_alive: str = "",
        prefixes: Callable[[], tuple[int, ...]] | None = None,
        ends_here: bool = False,
    ) -> Lease:
        """Wait until a worker can take a request for `model`, loading it when it is known but not running.

        Cancelling the wait gives the place in the queue back. `exclude` names workers that just failed.
        `keep_alive` is how long the model stays loaded after this request; empty leaves it to the settings.
        `prefixes` gives hashes of how the request begins; it is called only where they could choose between workers.
        `ends_here` leaves out workers that may be daemons: they would pass on once more what went round already.

        Raises:
            ApiError: 404 unknown model, 429 queue full, 503 cannot be loaded (with the reason) or shutting down,
                508 with `ends_here` where there are only workers that may be daemons.
        """
        ...

    def models(self) -> list[ModelInfo]:
        """Every model that `acquire` would take, running or not."""
        ...
