"""The client's side of a relayed answer: a streaming response whose bytes are written straight to the transport.

Sanic sends the head and the end, so that its own account of the connection stays right; between the two, chunks of
the body go to the transport without a task being woken for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.gateway.sse import COMMENT, CONTENT_TYPE, complete_length, error_event
from fcd.errors import ApiError

_LONGEST_EVENT = 1 << 20
"""An event longer than this is passed on in pieces."""


class ClientStream:
    """One answer that streams to the client. `pause` and `resume` are called when the client is slower than we are."""

    def __init__(self, request: Request[Any, Any]) -> None:
        self._request = request
        self._protocol: Any = request.stream.protocol if request.stream is not None else None
        self._transport: Any = request.transport
        self._response: HTTPResponse | None = None
        self._starting = asyncio.Lock()
        self._by_events = True
        self._held = b""
        self._between_events = True
        self._on_pause: Callable[[], None] | None = None
        self._on_resume: Callable[[], None] | None = None
        self._paused = False

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

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        """Send the head, once; later calls do nothing."""
        async with self._starting:
            if self._response is not None:
                return
            response = HTTPResponse(status=status, content_type=None)
            for name, value in headers or [("content-type", CONTENT_TYPE)]:
                response.headers.add(name, value)
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                response.headers.setdefault("Cache-Control", "no-cache")
                response.headers["X-Accel-Buffering"] = "no"
            else:
                self._by_events = False
            sent = await self._request.respond(response)
            await sent.send(b"", end_stream=False)
            self._response = sent
            if self._protocol is not None:
                self._protocol.flow = self

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Tell this source when the client cannot take more, and when it can again."""
        self._on_pause, self._on_resume = pause, resume
        if self._paused:
            pause()

    def write(self, data: bytes) -> None:
        """Pass on body bytes: of an event stream whole events only, so that nothing ever ends within one."""
        if not self._by_events:
            self._put(data)
            return
        if self._held:
            data = self._held + data
            self._held = b""
        whole = complete_length(data)
        if whole == len(data):
            self._put(data)
            self._between_events = True
        elif len(data) > _LONGEST_EVENT:
            self._put(data)
            self._between_events = False
        else:
            if whole:
                self._put(data[:whole])
                self._between_events = True
            self._held = data[whole:]

    def comment(self) -> None:
        """Keep the connection alive while there is nothing to say."""
        if self.started and self._by_events and self._between_events and not self._paused:
            self._put(COMMENT)

    async def fail(self, error: ApiError) -> None:
        """End an event stream with an `error` event, and any other body by cutting the connection."""
        self._held = b""
        if not self._by_events:
            self.cut()
            return
        self._put((b"" if self._between_events else b"\n\n") + error_event(error))
        await self.end()

    async def end(self) -> None:
        """The proper end of the answer."""
        if self._held:
            self._put(self._held)
            self._held = b""
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

    def pause(self) -> None:
        self._paused = True
        if self._on_pause is not None:
            self._on_pause()

    def resume(self) -> None:
        self._paused = False
        if self._on_resume is not None:
            self._on_resume()

    def _let_go(self) -> None:
        if self._protocol is not None:
            self._protocol.flow = None
        self._on_pause = self._on_resume = None

    def _put(self, data: bytes) -> None:
        transport = self._transport
        if data and transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
