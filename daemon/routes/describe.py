"""/openapi.json, /docs and /api/settings: what the daemon offers, and what it goes by."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.http import json_response
from daemon.openapi import document, page
from daemon.openapi.operations import SettingsAnswer
from daemon.openapi.page import POLICY


def describe_routes(context: DaemonContext) -> Blueprint:
    routes = Blueprint("describe")

    @lru_cache(maxsize=1)
    def described() -> dict[str, Any]:
        return document(context.url)

    @routes.get("/openapi.json")
    async def openapi(request: Request[Any, Any]) -> HTTPResponse:
        return json_response(await asyncio.to_thread(described))

    @routes.get("/docs")
    async def docs(request: Request[Any, Any]) -> HTTPResponse:
        text = await asyncio.to_thread(lambda: page(described()))
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTTPResponse(text, headers=headers, content_type="text/html; charset=utf-8")

    @routes.get("/api/settings")
    async def settings(request: Request[Any, Any]) -> HTTPResponse:
        return json_response(SettingsAnswer(context.settings, str(context.paths.config_file), context.warnings()))

    return routes
