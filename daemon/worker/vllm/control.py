"""Putting vLLM to sleep and waking it: routes of the worker's own port, for the daemon that looks after it."""

from __future__ import annotations

from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import json_response
from daemon.worker.child.fastchat import Serving
from daemon.worker.vllm.watch import Watch
from fcd.errors import ApiError, invalid

_LIMIT_S = 300.0
"""Moving the weights of a large model to RAM, or back, takes a while."""


class Bed:
    """Where a worker's vLLM sleeps. `watch` is set once it runs."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.watch: Watch | None = None
        self.possible = False

    @property
    def asleep(self) -> bool:
        return self.watch is not None and self.watch.asleep

    async def sleep(self) -> None:
        """Weights to RAM, the KV cache forgotten; what runs may finish first.

        Raises:
            ApiError: 409 where this vLLM cannot sleep, 502 or 503 where it does not answer.
        """
        server = self._serving.ready()
        if not self.possible or self.watch is None:
            raise ApiError(409, "This vLLM was started without sleep mode: it needs a GPU.", code="unsupported")
        self.watch.asleep = True
        try:
            await server.tell("/sleep?level=1&mode=wait", _LIMIT_S)
        except ApiError:
            self.watch.asleep = False
            raise

    async def wake(self) -> None:
        """Raises ApiError as `sleep` does."""
        server = self._serving.ready()
        await server.tell("/wake_up", _LIMIT_S)
        if self.watch is not None:
            self.watch.asleep = False


def control_routes(bed: Bed) -> Blueprint:
    routes = Blueprint("control")

    @routes.post("/sleep")
    async def sleep(request: Request[Any, Any]) -> HTTPResponse:
        if request.args.get("level", "1") != "1":
            raise invalid("level", "'level' must be 1: deeper sleep forgets the weights.")
        await bed.sleep()
        return json_response({"is_sleeping": True})

    @routes.post("/wake_up")
    async def wake_up(request: Request[Any, Any]) -> HTTPResponse:
        await bed.wake()
        return json_response({"is_sleeping": False})

    @routes.get("/is_sleeping")
    async def is_sleeping(request: Request[Any, Any]) -> HTTPResponse:
        return json_response({"is_sleeping": bed.asleep})

    return routes
