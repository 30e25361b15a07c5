"""The worker's Sanic app and its two listeners, TCP and unix socket, on one loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from sanic import Blueprint, Sanic
from sanic.config import Config
from sanic.exceptions import SanicException
from sanic.handlers import ErrorHandler
from sanic.http import Http
from sanic.models.server_types import Signal
from sanic.request import Request
from sanic.response import HTTPResponse
from sanic.server.protocols.http_protocol import HttpProtocol

from daemon.flow import FlowProtocol
from daemon.http import check_encoding, error_response
from daemon.worker.guard import check_caller, check_size, discard_body
from daemon.worker.options import WorkerOptions
from daemon.worker.sockets import bind_tcp, bind_unix
from daemon.worker.state import Worker
from fcd.errors import ApiError, FcdError

log = logging.getLogger("fcd.worker")

AnyRequest = Request[Any, Any]

_NEVER_S = 10**9
"""Sanic's limit on an answer would cut a slow first token; comments and the gateway's limits take its place."""
_HEADER_TIMEOUT_S = 60
_KEEP_ALIVE_S = 600


class WorkerApp(Sanic[Config, SimpleNamespace]):
    """Sanic, counting what is being answered and checking callers before any route is looked at."""

    async def handle_request(self, request: AnyRequest) -> None:
        worker: Worker = self.ctx.worker
        worker.active += 1
        try:
            try:
                check_caller(request, worker.options)
                check_size(request, worker.options.max_body_bytes)
                check_encoding(", ".join(request.headers.getall("content-encoding", [])))
            except ApiError as error:
                if error.status == 413:
                    cast("Any", request.stream).keep_alive = False
                await self.handle_exception(request, error, run_middleware=False)
                if error.status == 413:
                    await discard_body(request)
                return
            await super().handle_request(request)
        finally:
            worker.active -= 1


class _Errors(ErrorHandler):
    """Whatever was raised, as OpenAI's error object."""

    def default(self, request: AnyRequest, exception: Exception) -> HTTPResponse:
        error = _as_api_error(exception)
        if error.status >= 500 and not isinstance(exception, FcdError):
            log.error("%s %s failed", request.method, request.path, exc_info=exception)
        response = error_response(error)
        allowed = getattr(exception, "headers", None) if error.status == 405 else None
        response.headers.update(allowed or {})
        return response


def _as_api_error(exception: Exception) -> ApiError:
    if isinstance(exception, ApiError):
        return exception
    if isinstance(exception, SanicException):
        status = exception.status_code or 500
        known = {
            404: ("not_found", "There is no such route here."),
            405: ("method_not_allowed", "This method is not answered on this route."),
            413: ("request_too_large", str(exception)),
        }
        if status in known:
            code, message = known[status]
            return ApiError(status, message, code=code)
        if status < 500:
            return ApiError(status, f"The request cannot be read: {exception}", code="bad_request")
    return ApiError(500, "The worker failed here; its log says how.", code="internal_error")


def new_app(worker: Worker, blueprints: Sequence[Blueprint]) -> WorkerApp:
    """The app with its routes. Its name is unique, because Sanic keeps a table of names."""
    config = Config(env_prefix=None)
    config.update(
        {
            "ACCESS_LOG": False,
            "MOTD": False,
            "AUTO_EXTEND": False,
            "REQUEST_MAX_SIZE": worker.options.max_body_bytes,
            "REQUEST_TIMEOUT": _HEADER_TIMEOUT_S,
            "KEEP_ALIVE_TIMEOUT": _KEEP_ALIVE_S,
            "RESPONSE_TIMEOUT": _NEVER_S,
            "FALLBACK_ERROR_FORMAT": "json",
            # Sanic rewrites its classes once per process, and cannot do it twice.
            "TOUCHUP": not getattr(Http, "__touched__", False),
        }
    )
    app = WorkerApp(
        f"fcd-worker-{uuid.uuid4().hex[:12]}", config=config, error_handler=_Errors(), configure_logging=False
    )
    app.ctx.worker = worker
    for blueprint in blueprints:
        app.blueprint(blueprint)
    return app


class Listeners:
    """The open ports of one worker."""

    def __init__(self, app: WorkerApp, options: WorkerOptions) -> None:
        self._app = app
        self._options = options
        self._connections: set[HttpProtocol] = set()
        self._signal = Signal()
        self._servers: list[asyncio.AbstractServer] = []
        self._sanic: Any = None
        self.port = 0

    async def open(self) -> None:
        """Listen; `port` is known afterwards.

        Raises:
            FcdError: the port or the socket is taken or not allowed.
        """
        loop = asyncio.get_running_loop()
        tcp = bind_tcp(self._options.host, self._options.port)
        self.port = int(tcp.getsockname()[1])
        self._sanic = await self._app.create_server(sock=tcp, protocol=FlowProtocol, access_log=False)
        await self._sanic.startup()
        await self._sanic.before_start()
        if self._options.socket:
            unix = bind_unix(self._options.socket)
            factory = partial(
                FlowProtocol,
                loop=loop,
                app=self._app,
                signal=self._signal,
                connections=self._connections,
                unix=self._options.socket,
            )
            self._servers.append(await loop.create_server(factory, sock=unix, backlog=1024))
        await self._sanic.after_start()

    @property
    def _all_connections(self) -> list[HttpProtocol]:
        return [*self._sanic.connections, *self._connections]

    def close(self) -> None:
        """Take no new connections and end those that are idle."""
        for server in (self._sanic.server, *self._servers):
            server.close()
        self._remove_socket()
        for connection in self._all_connections:
            connection.close_if_idle()

    def abort(self) -> None:
        """Cut what is left."""
        for connection in self._all_connections:
            connection.abort()  # type: ignore[no-untyped-call]

    def _remove_socket(self) -> None:
        if self._options.socket:
            with contextlib.suppress(OSError):
                os.unlink(self._options.socket)
