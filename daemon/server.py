"""The daemon's Sanic: checks before anything is read, bounded bodies, and every error in one shape."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import re
import secrets
import sqlite3
from types import SimpleNamespace
from typing import Any

from httptools import parse_url
from sanic import Sanic
from sanic.config import Config
from sanic.exceptions import MethodNotAllowed, PayloadTooLarge, RequestCancelled, SanicException
from sanic.handlers import ErrorHandler
from sanic.http import Http
from sanic.request import Request
from sanic.response import BaseHTTPResponse, HTTPResponse

from daemon.context import DaemonContext
from daemon.http import error_response
from daemon.security import Admission, Call
from fcd.errors import ApiError, FcdError, NotFound

log = logging.getLogger("fcd.daemon")

BODY_TIMEOUT_S = 120.0
_HEADER_TIMEOUT_S = 60
_KEEP_ALIVE_S = 120
_NEVER_S = 10**9
"""Sanic's own limit on an answer is put out of the way: the gateway has limits on the first byte and on gaps."""

_HEADER_ROOM = 1 << 20
"""Sanic takes the limit on bodies for one on headers too; a small one must not make headers impossible."""

_LINGER_S = 2.0
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
_SLASHES = re.compile(r"/{2,}")

AnyRequest = Request[Any, Any]


class DaemonApp(Sanic[Config, SimpleNamespace]):
    """Sanic, with the security checks in front of everything else. They do not depend on any route being known."""

    async def handle_request(self, request: AnyRequest) -> None:
        context: DaemonContext = self.ctx.daemon
        request.ctx.request_id = request_id_of(request)
        try:
            admission = context.security.admit(_call_of(request))
            request.ctx.caller, request.ctx.cors = admission.caller, admission.cors
            if request.method == "OPTIONS" and admission.cors:
                await _finish(request, HTTPResponse(status=204))
                return
            _reroute(request, admission)
            await _receive_body(request, context.settings.daemon.max_body_bytes)
        except Exception as error:
            unread = isinstance(error, ApiError) and error.status in (408, 413)
            if unread and request.stream is not None:
                request.stream.keep_alive = False  # type: ignore[attr-defined]
            await self.handle_exception(request, error, run_middleware=False)
            if unread:
                await _linger(request)
            return
        await super().handle_request(request)


class Errors(ErrorHandler):
    """Turns whatever was raised into OpenAI's error object."""

    def default(self, request: AnyRequest, exception: Exception) -> HTTPResponse:
        error = as_api_error(exception, request)
        if error.status >= 500 and not isinstance(exception, (FcdError, RequestCancelled)):
            where = f"{request.method} {request.path}"
            log.error("%s failed", where, exc_info=exception, extra={"request_id": _known_id(request)})
        response = error_response(error)
        if isinstance(exception, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(_methods_of(request))
        return response


def _methods_of(request: AnyRequest) -> list[str]:
    """What a path answers. Sanic's router itself does not know where the path has parts that vary."""
    found = []
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        try:
            request.app.router.get(request.path, method, request.headers.get("host"))
        except SanicException:
            continue
        found.append(method)
    return found


def new_app(context: DaemonContext) -> DaemonApp:
    """An app without routes. Its name is unique, because Sanic keeps a table of names."""
    app = DaemonApp(
        f"fcd-{secrets.token_hex(6)}", config=_config(context), error_handler=Errors(), configure_logging=False
    )
    app.ctx.daemon = context
    app.register_middleware(_add_headers, "response")
    return app


def as_api_error(exception: Exception, request: AnyRequest | None = None) -> ApiError:
    """The error to show. What was not raised for people says nothing of its inside."""
    if isinstance(exception, ApiError):
        return exception
    if isinstance(exception, NotFound):
        return ApiError(404, str(exception), code="not_found")
    if isinstance(exception, FcdError):
        return ApiError(503, str(exception), code="unavailable")
    if isinstance(exception, SanicException):
        return _of_sanic(exception, request)
    if _is_full(exception):
        return ApiError(507, "The disk is full, so nothing was saved. Make room and try again.", code="disk_full")
    return ApiError(500, "The daemon failed here; `fcd daemon logs` says how.", code="internal_error")


def _is_full(exception: Exception) -> bool:
    if isinstance(exception, sqlite3.OperationalError):
        return exception.sqlite_errorcode == sqlite3.SQLITE_FULL
    return isinstance(exception, OSError) and exception.errno in (errno.ENOSPC, errno.EDQUOT)


def _of_sanic(exception: SanicException, request: AnyRequest | None) -> ApiError:
    status = exception.status_code or 500
    if status == 404:
        return ApiError(404, "There is no such route here.", code="not_found")
    if status == 405:
        method = request.method if request is not None else "This method"
        return ApiError(405, f"{method} is not answered on this route.", code="method_not_allowed")
    if status == 413:
        return ApiError(413, str(exception), code="request_too_large")
    if status < 500:
        return ApiError(status, f"The request cannot be read: {exception}", code="bad_request")
    if status == 503:
        return ApiError(503, str(exception), code="overloaded")
    return ApiError(500, "The daemon failed here; `fcd daemon logs` says how.", code="internal_error")


def request_id_of(request: AnyRequest) -> str:
    """The client's own id where it is harmless, else a new one."""
    return usable_id(request.headers.getone("x-request-id", ""))


def usable_id(given: str) -> str:
    """This id where it is harmless, else a new one."""
    return given if given and _REQUEST_ID.match(given) else _new_id()


_ids = random.Random(secrets.randbits(256))
"""Ids of requests guard nothing: they only have to differ, also from those of other daemons."""


def _new_id() -> str:
    return f"req-{_ids.getrandbits(128):032x}"


def _config(context: DaemonContext) -> Config:
    config = Config(env_prefix="")
    config.update(
        {
            "ACCESS_LOG": False,
            "MOTD": False,
            "AUTO_EXTEND": False,
            "REQUEST_MAX_SIZE": max(context.settings.daemon.max_body_bytes, _HEADER_ROOM),
            "REQUEST_TIMEOUT": _HEADER_TIMEOUT_S,
            "KEEP_ALIVE_TIMEOUT": _KEEP_ALIVE_S,
            "RESPONSE_TIMEOUT": _NEVER_S,
            "FALLBACK_ERROR_FORMAT": "json",
            # Sanic rewrites its own methods when an app starts, which can be done once in a process.
            "TOUCHUP": not getattr(Http, "__touched__", False),
        }
    )
    return config


def _call_of(request: AnyRequest) -> Call:
    headers, path = request.headers, request.path
    hosts = headers.getall("host", [])
    info = request.conn_info
    peer, local = (info.peername, info.sockname) if info is not None else (None, None)
    return Call(
        method=request.method,
        path=_SLASHES.sub("/", path) if "//" in path else path,
        host=hosts[0] if len(hosts) == 1 else "",
        origin=headers.getone("origin", ""),
        authorization=headers.getone("authorization", ""),
        content_type=headers.getone("content-type", ""),
        has_body=_has_body(request),
        peer=str(peer[0]) if isinstance(peer, tuple) else "",
        local=str(local[0]) if isinstance(local, tuple) else "",
        content_encoding=", ".join(headers.getall("content-encoding", [])),
    )


def _has_body(request: AnyRequest) -> bool:
    return headers_say_body(request.headers.getone("content-length", "0"), "transfer-encoding" in request.headers)


def headers_say_body(content_length: str, chunked: bool) -> bool:
    return chunked or content_length.strip() not in ("", "0")


def _reroute(request: AnyRequest, admission: Admission) -> None:
    """Route by the admitted path: a join token in the URL goes no further than here."""
    if admission.path == request.path:
        return
    query = f"?{request.query_string}" if request.query_string else ""
    request.raw_url = f"{admission.path}{query}".encode()
    request._parsed_url = parse_url(request.raw_url)


async def _receive_body(request: AnyRequest, limit: int) -> None:
    """Read the body within its limits of size and time.

    Raises:
        ApiError: 413, or 408 for a body that does not arrive.
    """
    length = request.headers.getone("content-length", "0").strip()
    if not (length.isascii() and length.isdigit()):
        raise ApiError(400, "The Content-Length header is not a number.", code="bad_request")
    if len(length) > 15 or int(length) > limit:
        raise _too_large(limit)
    stream: Any = request.stream
    if stream is None or not stream.request_body:
        return
    stream.request_max_size = limit
    try:
        if len(stream.protocol.recv_buffer) >= int(length) > 0:
            await request.receive_body()  # type: ignore[no-untyped-call]  # it is all here: no need to watch the clock
            return
        async with asyncio.timeout(BODY_TIMEOUT_S):
            await request.receive_body()  # type: ignore[no-untyped-call]
    except PayloadTooLarge:
        raise _too_large(limit) from None
    except TimeoutError:
        raise ApiError(408, "The request body did not arrive in time.", code="request_timeout") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {limit} bytes; daemon.max_body_bytes sets the limit.",
        code="request_too_large",
    )


async def _finish(request: AnyRequest, response: HTTPResponse) -> None:
    sent = await request.respond(response)
    await sent.send(end_stream=True)


async def _linger(request: AnyRequest) -> None:
    """Throw away what a refused client still sends, for a moment, so that it reads the answer and not a reset."""
    stream: Any = request.stream
    if stream is None:
        return
    stream.request_body = None
    protocol = stream.protocol
    try:
        async with asyncio.timeout(_LINGER_S):
            while protocol.transport is not None and not protocol.transport.is_closing():
                protocol.recv_buffer.clear()
                await protocol.receive_more()
    except (TimeoutError, RequestCancelled):
        pass


async def _add_headers(request: AnyRequest, response: BaseHTTPResponse) -> None:
    response.headers.setdefault("X-Request-Id", _known_id(request))
    response.headers.update(getattr(request.ctx, "cors", {}))


def _known_id(request: AnyRequest) -> str:
    known = getattr(request.ctx, "request_id", "")
    if not known:
        known = request.ctx.request_id = _new_id()
    return str(known)
