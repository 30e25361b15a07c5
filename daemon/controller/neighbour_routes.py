"""/api/workers/attach and detach, /api/heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import decode_body, json_response
from fcd.wire.neighbours import AttachRequest, HeadList, JoinRequest, LeaveRequest

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

AnyRequest = Request[Any, Any]


def neighbour_routes(controller: Controller) -> Blueprint:
    """Routes for the machine's owner."""
    blueprint = Blueprint("neighbours")

    @blueprint.post("/api/workers/attach")
    async def attach(request: AnyRequest) -> HTTPResponse:
        name = await controller.attachments.attach(decode_body(request, AttachRequest))
        return json_response(controller.worker(name))

    @blueprint.post("/api/workers/<name>/detach")
    async def detach(request: AnyRequest, name: str) -> HTTPResponse:
        await controller.attachments.detach(unquote(name))
        return json_response(None)

    @blueprint.get("/api/heads")
    async def heads(request: AnyRequest) -> HTTPResponse:
        return json_response(HeadList(controller.heads.list()))

    @blueprint.post("/api/heads")
    async def join(request: AnyRequest) -> HTTPResponse:
        asked = decode_body(request, JoinRequest)
        return json_response(await controller.heads.join(asked.url, asked.token))

    @blueprint.post("/api/heads/leave")
    async def leave(request: AnyRequest) -> HTTPResponse:
        await controller.heads.leave(decode_body(request, LeaveRequest).url)
        return json_response(None)

    return blueprint
