"""The client's side of a relayed answer on a connection of Sanic's.

Sanic sends the head and the end, so that its own account of the connection stays right; between the two, chunks of
the body go to the transport without a task being woken for each.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.gateway.events import EventStream


class ClientStream(EventStream):
    """One answer that streams to the client, past Sanic."""

    def __init__(self, request: Request[Any, Any]) -> None:
        super().__init__()
        self._request = request
        self._protocol: Any = request.stream.protocol if request.stream is not None else None
        self._transport: Any = request.transport
        self._response: HTTPResponse | None = None
        self._starting = asyncio.Lock()

    @property
    def started(self) -> bool:
        return self._response is not None

    @property
    def request_id(self) -> str:
        return str(self._request.ctx.request_id)

    @property
    def left(self) -> bool:
        info = self._request.conn_info
        return info is not None and info.lost

    def begin(self) -> None:
        """Sanic may have stopped reading at the end of a long body; a client that leaves is noticed by reading."""
        self._transport.resume_reading()

    def start_now(self, status: int, headers: list[tuple[str, str]]) -> bool:
        """Sanic's heads are sent by a task."""
        return False

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        """Send the head, once; later calls do nothing."""
        async with self._starting:
            if self._response is not None:
                return
            response = HTTPResponse(status=status, content_type=None)
            for name, value in self._headers(headers):
                response.headers.add(name, value)
            sent = await self._request.respond(response)
            await sent.send(b"", end_stream=False)
            self._response = sent
            if self._protocol is not None:
                self._protocol.flow = self

    def last(self) -> None:
        """Sanic sends the end."""

    async def end(self) -> None:
        """The proper end of the answer."""
        self._flush_held()
        self._let_go()
        if self._response is not None:
            await self._response.send(end_stream=True)

    def cut(self) -> None:
        """Close the connection in the middle of the answer, so that nobody takes it for whole."""
        self._let_go()
        if self._request.stream is not None:
            self._request.stream.keep_alive = False  # type: ignore[attr-defined]
        if self._transport is not None:
            self._transport.abort()

    def _let_go(self) -> None:
        if self._protocol is not None:
            self._protocol.flow = None
        self._on_pause = self._on_resume = None

    def _put(self, data: bytes) -> None:
        transport = self._transport
        if data and transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
