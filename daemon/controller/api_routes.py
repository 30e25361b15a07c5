"""/api/workers, /api/models and /api/events."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.controller.hub import Subscription, TooManyWatchers
from daemon.http import decode_body, integer_query, json_response
from fcd.errors import ApiError
from fcd.wire.admin import (
    DaemonEvent,
    LoadEvent,
    LoadRequest,
    LogLines,
    ModelInfoList,
    UnloadRequest,
    WorkerList,
)

if TYPE_CHECKING:
    from daemon.context import DaemonContext
    from daemon.controller.controller import Controller

AnyRequest = Request[Any, Any]

_COMMENT = b": waiting\n\n"
_SSE_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def api_routes(controller: Controller, context: DaemonContext) -> Blueprint:
    """Routes for the machine's owner."""
    blueprint = Blueprint("workers_and_models")
    comment_s = context.settings.daemon.sse_comment_s

    @blueprint.get("/api/workers")
    async def workers(request: AnyRequest) -> HTTPResponse:
        return json_response(WorkerList(controller.workers()))

    @blueprint.post("/api/workers")
    async def start_worker(request: AnyRequest) -> HTTPResponse:
        return json_response(await controller.start_worker(decode_body(request, LoadRequest)), 202)

    @blueprint.delete("/api/workers/<name>")
    async def stop_worker(request: AnyRequest, name: str) -> HTTPResponse:
        await controller.stop_worker(unquote(name))
        return json_response(None)

    @blueprint.post("/api/workers/<name>/restart")
    async def restart_worker(request: AnyRequest, name: str) -> HTTPResponse:
        await controller.restart(unquote(name))
        return json_response(None)

    @blueprint.get("/api/workers/<name>/log")
    async def worker_log(request: AnyRequest, name: str) -> HTTPResponse:
        lines = integer_query(request, "lines", 200)
        return json_response(LogLines(await controller.log_lines(unquote(name), lines)))

    @blueprint.get("/api/models")
    async def models(request: AnyRequest) -> HTTPResponse:
        await controller.catalog.refresh()
        return json_response(ModelInfoList(controller.models()))

    @blueprint.post("/api/models/load")
    async def load(request: AnyRequest) -> None:
        events = await controller.load(decode_body(request, LoadRequest))
        stream = await _open(request)
        async with aclosing(events):
            async for event in events:
                await stream.send(_COMMENT if event is None else _load_line(event))
        await stream.send(end_stream=True)

    @blueprint.post("/api/models/estimate")
    async def estimate(request: AnyRequest) -> HTTPResponse:
        return json_response(await controller.estimate(decode_body(request, LoadRequest)))

    @blueprint.post("/api/models/unload")
    async def unload(request: AnyRequest) -> HTTPResponse:
        await controller.unload(decode_body(request, UnloadRequest).model)
        return json_response(None)

    @blueprint.get("/api/devices")
    async def devices(request: AnyRequest) -> HTTPResponse:
        return json_response(await controller.devices())

    @blueprint.get("/api/events")
    async def events(request: AnyRequest) -> None:
        try:
            with controller.hub.subscribe() as subscription:
                stream = await _open(request)
                for info in controller.workers():
                    await stream.send(_event_line(DaemonEvent("worker", worker=info, name=info.name)))
                await stream.send(_event_line(DaemonEvent("ready")))
                await _relay(stream, subscription, comment_s)
                await stream.send(end_stream=True)
        except TooManyWatchers:
            raise ApiError(429, "Too many clients watch already.", code="overloaded", retry_after=10) from None

    return blueprint


async def _relay(stream: Any, subscription: Subscription, comment_s: float) -> None:
    while True:
        try:
            async with asyncio.timeout(comment_s):
                event = await subscription.next()
        except TimeoutError:
            await stream.send(_COMMENT)
            continue
        if event is None:
            return
        await stream.send(_event_line(event))


async def _open(request: AnyRequest) -> Any:
    return await request.respond(content_type="text/event-stream", headers=_SSE_HEADERS)


def _load_line(event: LoadEvent) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _event_line(event: DaemonEvent) -> bytes:
    return f"event: {event.type}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"
