"""Whether the daemon answers, whether it can take work, and what it is doing."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.http import integer_query, json_response
from daemon.logs import last_lines
from daemon.metrics import prometheus_text
from fcd import __version__
from fcd.wire.admin import DaemonStatus, LogLines

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def status_routes(context: DaemonContext) -> Blueprint:
    routes = Blueprint("status")

    @routes.get("/health")
    async def health(request: Request[Any, Any]) -> HTTPResponse:
        return json_response({"status": "ok", "version": __version__})

    @routes.get("/ready")
    async def ready(request: Request[Any, Any]) -> HTTPResponse:
        reasons = context.not_ready()
        body = {"ready": not reasons, "reasons": reasons, "warnings": context.warnings()}
        return json_response(body, 503 if reasons else 200, {"Retry-After": "2"} if reasons else None)

    @routes.get("/metrics")
    async def metrics(request: Request[Any, Any]) -> HTTPResponse:
        text = prometheus_text(
            context.metrics,
            context.controller.workers(),
            running=len(context.active),
            uptime_s=context.clock() - context.started_at,
            ready=not context.not_ready(),
            devices=(await context.controller.devices()).devices,
        )
        return HTTPResponse(text, content_type=_METRICS_TYPE)

    @routes.get("/api/status")
    async def status(request: Request[Any, Any]) -> HTTPResponse:
        return json_response(daemon_status(context))

    @routes.get("/api/logs")
    async def logs(request: Request[Any, Any]) -> HTTPResponse:
        count = integer_query(request, "lines", 200)
        lines = await asyncio.to_thread(last_lines, context.paths.daemon_log, count)
        return json_response(LogLines(lines))

    return routes


def daemon_status(context: DaemonContext) -> DaemonStatus:
    reasons = context.not_ready()
    return DaemonStatus(
        pid=os.getpid(),
        url=context.url,
        version=__version__,
        ready=not reasons,
        uptime_s=round(context.clock() - context.started_at, 3),
        workers=context.controller.workers(),
        reasons=reasons,
        warnings=context.warnings(),
    )
