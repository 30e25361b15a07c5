"""Who may call a worker: this machine always, others with the worker's key, no web page ever."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from sanic.exceptions import RequestCancelled
from sanic.request import Request

from daemon.access import host_name, is_loopback, is_same_origin
from daemon.worker.options import WorkerOptions
from fcd.errors import ApiError

_OPEN = frozenset({"/health", "/worker_get_status"})
"""Routes that say only whether a worker is there, for probes."""

_LINGER_S = 2.0


def over_unix_socket(request: Request[Any, Any]) -> bool:
    """Whether the caller came through the socket file, which only this user's processes can open."""
    info = request.conn_info
    return info is not None and not isinstance(info.peername, tuple)


def check_caller(request: Request[Any, Any], options: WorkerOptions) -> None:
    """Refuse web pages, names that were made to point here, and strangers.

    Raises:
        ApiError: 401 or 403.
    """
    if over_unix_socket(request):
        return
    headers = request.headers
    host, origin = headers.getone("host", ""), headers.getone("origin", "")
    if origin and not is_same_origin(origin, host):
        raise ApiError(403, "Web pages may not call a worker.", code="forbidden")
    if not _is_ours(host_name(host), options):
        raise ApiError(403, f"The Host header '{host[:80]}' is not one of this worker's.", code="forbidden")
    if not options.api_key or request.path in _OPEN:
        return
    given = headers.getone("authorization", "").removeprefix("Bearer ").encode()
    if not hmac.compare_digest(given, options.api_key.encode()):
        raise ApiError(401, "This worker takes requests from its controller only.", code="invalid_api_key")


def _is_ours(name: str, options: WorkerOptions) -> bool:
    """Whether a Host header can be meant for this worker. A name that was made to point here is none of ours; an
    address cannot be made to."""
    if is_loopback(name):
        return True
    if is_loopback(options.host):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        announced = urlsplit(options.address).hostname or ""
        return name.lower() in {announced.lower(), options.host.lower(), *_own_names()}
    return True


@cache
def _own_names() -> frozenset[str]:
    return frozenset(name.lower() for name in (socket.gethostname(), socket.getfqdn()))


def check_size(request: Request[Any, Any], limit: int) -> None:
    """Refuse a body that is announced as too large before any of it is read. Raises ApiError 413."""
    length = request.headers.getone("content-length", "0").strip()
    if length.isdigit() and int(length[:20]) > limit:
        raise ApiError(413, f"The request body is larger than {limit} bytes.", code="request_too_large")


async def discard_body(request: Request[Any, Any]) -> None:
    """Throw away what a refused client still sends, for a moment, so that it reads the answer and not a reset."""
    stream: Any = request.stream
    if stream is None or not stream.request_body:
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
