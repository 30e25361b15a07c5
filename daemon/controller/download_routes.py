"""/api/downloads: models on their way to this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import decode_body, json_response
from fcd.wire.downloads import DownloadRequest, RepoRequest

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

AnyRequest = Request[Any, Any]


def download_routes(controller: Controller) -> Blueprint:
    """Routes for the machine's owner."""
    blueprint = Blueprint("downloads")

    @blueprint.get("/api/downloads")
    async def downloads(request: AnyRequest) -> HTTPResponse:
        return json_response(controller.downloads.list())

    @blueprint.post("/api/downloads")
    async def download(request: AnyRequest) -> HTTPResponse:
        return json_response(controller.downloads.start(decode_body(request, DownloadRequest)), 202)

    @blueprint.post("/api/downloads/pause")
    async def pause_download(request: AnyRequest) -> HTTPResponse:
        controller.downloads.pause(decode_body(request, RepoRequest).repo)
        return json_response(None)

    @blueprint.post("/api/downloads/cancel")
    async def cancel_download(request: AnyRequest) -> HTTPResponse:
        controller.downloads.cancel(decode_body(request, RepoRequest).repo)
        return json_response(None)

    return blueprint
