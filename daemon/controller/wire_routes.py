"""FastChat's controller routes: its names, bodies and replies. Bodies are read raw, and unknown keys are ignored."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.controller.addresses import worker_address
from daemon.controller.generate import relay
from daemon.http import decode_body, json_response
from daemon.security import Caller
from fcd.wire.controller import (
    HeartBeat,
    HeartBeatReply,
    ModelList,
    ModelQuery,
    RegisterWorker,
    WorkerStatus,
)

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

AnyRequest = Request[Any, Any]


def wire_routes(controller: Controller) -> Blueprint:
    """What FastChat's workers, servers and clients call."""
    blueprint = Blueprint("fastchat_controller")

    @blueprint.post("/register_worker")
    async def register_worker(request: AnyRequest) -> HTTPResponse:
        await controller.join.register(decode_body(request, RegisterWorker), _caller(request), _peer(request))
        return json_response(None, headers=controller.heads.headers())

    @blueprint.post("/receive_heart_beat")
    async def receive_heart_beat(request: AnyRequest) -> HTTPResponse:
        known = controller.join.beat(decode_body(request, HeartBeat), _caller(request))
        return json_response(HeartBeatReply(known), headers=controller.heads.headers())

    @blueprint.post("/refresh_all_workers")
    async def refresh_all_workers(request: AnyRequest) -> HTTPResponse:
        await controller.join.refresh()
        return json_response(None)

    @blueprint.post("/list_models")
    async def list_models(request: AnyRequest) -> HTTPResponse:
        return json_response(ModelList(controller.fastchat.names()))

    @blueprint.post("/list_multimodal_models")
    async def list_multimodal_models(request: AnyRequest) -> HTTPResponse:
        return json_response(ModelList(controller.fastchat.names(multimodal=True)))

    @blueprint.post("/list_language_models")
    async def list_language_models(request: AnyRequest) -> HTTPResponse:
        return json_response(ModelList(controller.fastchat.names(multimodal=False)))

    @blueprint.post("/get_worker_address")
    async def get_worker_address(request: AnyRequest) -> HTTPResponse:
        model = decode_body(request, ModelQuery).model
        return json_response(await worker_address(controller, model))

    @blueprint.post("/worker_get_status")
    async def worker_get_status(request: AnyRequest) -> HTTPResponse:
        status: WorkerStatus = controller.fastchat.status()
        return json_response(status)

    @blueprint.post("/worker_generate_stream")
    async def worker_generate_stream(request: AnyRequest) -> None:
        stream: Any = await request.respond(content_type="application/octet-stream")
        async with aclosing(relay(controller, request.body)) as frames:
            async for chunk in frames:
                await stream.send(chunk)
        await stream.send(end_stream=True)

    @blueprint.get("/test_connection")
    async def test_connection(request: AnyRequest) -> HTTPResponse:
        return json_response("success")

    return blueprint


def _caller(request: AnyRequest) -> Caller:
    caller: Caller = request.ctx.caller
    return caller


def _peer(request: AnyRequest) -> str:
    info = request.conn_info
    peer = info.peername if info is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else ""
