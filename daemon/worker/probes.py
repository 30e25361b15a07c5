"""GET /health and /metrics."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import json_response
from daemon.worker.state import Worker
from fcd import __version__
from fcd.wire.admin import Progress


class Health(msgspec.Struct, omit_defaults=True):
    """`status`: `ok`, `loading`, `draining` or `failed`."""

    status: str
    models: list[str]
    version: str
    progress: Progress | None = None
    error: str = ""


def probe_routes(worker: Worker, *, metrics: bool = True) -> Blueprint:
    """`metrics`: give this program's own; else the engine's are relayed."""
    routes = Blueprint("probes")

    @routes.get("/health")
    async def health(request: Request[Any, Any]) -> HTTPResponse:
        loading = worker.status == "loading"
        answer = Health(worker.status, worker.names, __version__, worker.progress if loading else None, worker.error)
        return json_response(answer, 503 if worker.status == "failed" else 200)

    if metrics:
        routes.add_route(_metrics(worker), "/metrics", methods=["GET"], name="metrics")
    return routes


def _metrics(worker: Worker) -> Callable[[Request[Any, Any]], Coroutine[Any, Any, HTTPResponse]]:
    async def metrics(request: Request[Any, Any]) -> HTTPResponse:
        text = worker.metrics.text(worker.names[0], worker.stats())
        return HTTPResponse(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics
