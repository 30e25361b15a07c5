"""Connections of clients. Plain requests for a model are read and relayed here, without Sanic; it gets all others.

One worker's answers cost a gateway little once they flow; what costs is the request, and most of that was a framework's
objects. So the few routes that carry the load have this short way, and what it cannot take, or would have to refuse, is
handed on byte for byte: Sanic's way is the one that says no.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from sanic.exceptions import RequestCancelled

from daemon.context import DaemonContext
from daemon.flow import FlowProtocol
from daemon.gateway.plain import PlainHead, read_head
from daemon.gateway.plain_client import PlainClient
from daemon.gateway.relay import Order
from daemon.gateway.relays import Relays
from daemon.gateway.routes import RELAYED, SpecialModels
from daemon.gateway.routing import read_call
from daemon.gateway.upstream import HOPS_HEADER, hops_of
from daemon.http import error_response
from daemon.security import Call
from daemon.server import as_api_error, usable_id
from fcd.errors import ApiError

log = logging.getLogger("fcd.daemon")

_MOST_BODY = 256 * 1024
"""Larger bodies are read in a thread, which is Sanic's way."""
_MOST_AHEAD = 64 * 1024
"""What a client may send of its next request before the answer to this one is out."""
_BODY_S = 5.0
"""A body that takes longer goes to Sanic, which has the limits for it."""
_IDLE_S = 120.0
_LOW_WATER, _HIGH_WATER = 16 * 1024, 64 * 1024


_HOPS = HOPS_HEADER.lower()


class Front:
    """What plain requests are checked and relayed by."""

    def __init__(self, context: DaemonContext, relays: Relays, special: SpecialModels | None = None) -> None:
        self.relays = relays
        self._context = context
        self._special = special

    def read_head(self, data: bytes) -> PlainHead | None:
        most = min(_MOST_BODY, self._context.settings.daemon.max_body_bytes)
        return read_head(data, RELAYED, most_body=most)

    def admit(self, head: PlainHead, body: bytes, connection: FrontProtocol) -> tuple[PlainClient, Order] | None:
        """Who is answered, and with what; None where that is not for here, or would be refused."""
        headers = head.headers
        call = Call(
            "POST",
            head.path,
            headers.get("host", ""),
            headers.get("origin", ""),
            headers.get("authorization", ""),
            headers.get("content-type", ""),
            True,
            connection.peer,
            connection.local,
            headers.get("content-encoding", ""),
        )
        try:
            admission = self._context.security.admit(call)
            asked = read_call(body)
        except ApiError:
            return None
        if admission.path != head.path or (self._special is not None and self._special.takes(head.path, asked.model)):
            return None
        number = usable_id(headers.get("x-request-id", ""))
        more = {"X-Request-Id": number, **admission.cors}
        order = Order(
            asked.model, "POST", head.path, body, asked.stream, asked.keep_alive, hops=hops_of(headers.get(_HOPS, ""))
        )
        return PlainClient(connection, number, more, keep_alive=head.keep_alive), order


class FrontProtocol(asyncio.Protocol):
    """One connection of a client, with one request at a time. Made with what Sanic gives its own connections."""

    def __init__(self, **kwargs: Any) -> None:
        self._kwargs = kwargs
        self._front: Front = kwargs["app"].ctx.front
        self._loop: asyncio.AbstractEventLoop = kwargs["loop"]
        self._connections: set[Any] = kwargs["connections"]
        self.transport: Any = None
        self.lost = False
        self.peer = self.local = ""
        self._buffer = b""
        self._head: PlainHead | None = None
        self._client: PlainClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._waiting: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._held_back = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(low=_LOW_WATER, high=_HIGH_WATER)
        self._connections.add(self)
        self._idle_since = self._loop.time()
        self._idle = self._loop.call_later(_IDLE_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._leave()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if self._task is None:
            self._go_on()
        elif len(self._buffer) > _MOST_AHEAD and not self._held_back:
            self._held_back = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        if self._client is not None:
            self._client.pause()

    def resume_writing(self) -> None:
        if self._client is not None:
            self._client.resume()

    # What a server's end asks of its connections

    def close_if_idle(self) -> bool:
        if self._task is not None or self._buffer:
            return False
        self.close()
        return True

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # Requests

    def _go_on(self) -> None:
        """Take the request that is in the buffer, if it is all there."""
        head = self._head = self._head or self._front.read_head(self._buffer)
        if head is None:
            self._hand_over()
            return
        end = head.size + head.body_size
        if len(self._buffer) < end:
            if self._waiting is None:
                self._waiting = self._loop.call_later(_BODY_S, self._hand_over)
            return
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if not self.local:
            self.peer, self.local = self._address("peername"), self._address("sockname")
        taken = self._front.admit(head, self._buffer[head.size : end], self)
        if taken is None:
            self._hand_over()
            return
        self._buffer, self._head = self._buffer[end:], None
        self._client = taken[0]
        self._task = self._loop.create_task(self._answer(*taken, keep_alive=head.keep_alive))

    async def _answer(self, client: PlainClient, order: Order, *, keep_alive: bool) -> None:
        try:
            response = await self._front.relays.send(client, order)
            if response is not None:
                client.answer(response)
        except (asyncio.CancelledError, RequestCancelled, OSError):
            client.cut()
        except Exception as error:
            self._fail(client, order, error)
        finally:
            self._task = self._client = None
            self._next(keep_alive and client.complete)

    def _fail(self, client: PlainClient, order: Order, error: Exception) -> None:
        log.error("POST %s failed", order.path, exc_info=error, extra={"request_id": client.request_id})
        if client.started:
            client.cut()
        else:
            client.answer(error_response(as_api_error(error)))

    def _next(self, keep_alive: bool) -> None:
        """The connection is free for the next request, if there is to be one."""
        if self.transport.is_closing():
            return
        if not keep_alive:
            self.transport.close()
            return
        self._idle_since = self._loop.time()
        if self._held_back:
            self._held_back = False
            self.transport.resume_reading()
        if self._buffer:
            self._go_on()

    def _address(self, name: str) -> str:
        found = self.transport.get_extra_info(name)
        return str(found[0]) if isinstance(found, tuple) else ""

    def _hand_over(self) -> None:
        """From here on the connection is Sanic's, with all that is not answered yet."""
        if self.lost or self.transport.is_closing():
            return
        self._leave()
        protocol = FlowProtocol(**self._kwargs)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)  # type: ignore[no-untyped-call]
        if self._buffer:
            protocol.data_received(self._buffer)

    def _look(self) -> None:
        """Close it when nothing has come for a while."""
        left = self._idle_since + _IDLE_S - self._loop.time()
        if self._task is None and not self._buffer and left <= 0:
            self.close()
            return
        self._idle = self._loop.call_later(max(left, _IDLE_S / 4), self._look)

    def _leave(self) -> None:
        self._connections.discard(self)
        for timer in (self._waiting, self._idle):
            if timer is not None:
                timer.cancel()
        self._waiting = self._idle = None
