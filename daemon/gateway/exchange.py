"""One answer of a worker on its way: gathered until it is known what becomes of it, then passed straight on."""

from __future__ import annotations

import asyncio

from daemon.gateway.outlet import Outlet
from daemon.gateway.upstream import Head, UpstreamConnection, UpstreamLost

GATHERED_BYTES = 4 * 1024 * 1024
"""A longer body is not held whole: it is passed on as it comes."""


class Exchange:
    """Takes what an `UpstreamConnection` hands on."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self.connection: UpstreamConnection | None = None
        self.response: Head | None = None
        self.last_byte_at = loop.time()
        self.gathered: list[bytes] = []
        self.size = 0
        self.first: asyncio.Future[None] = loop.create_future()
        """Done with the first byte of the body, or the end of an answer without one."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done at the end, or when the body has grown past `GATHERED_BYTES`."""
        self.done: asyncio.Future[None] = loop.create_future()
        self.held_since: float | None = None
        """Since when the client takes nothing more, so that the worker is not read from; None while it does."""
        self.over = False
        """Nothing more will come: the answer ended, or its connection did."""
        self._client: Outlet | None = None
        for future in (self.first, self.settled, self.done):
            future.add_done_callback(_look)

    def splice(self, client: Outlet) -> None:
        """From now on bytes go straight to the client, first those gathered so far."""
        self._client = client
        gathered, self.gathered = self.gathered, []
        if gathered:
            client.write(b"".join(gathered))
        if self.connection is not None and not self.over:
            client.follow(self._hold, self._let_on)
            if self.size > GATHERED_BYTES:
                self.connection.resume()

    def _hold(self) -> None:
        self.held_since = self._loop.time()
        if self.connection is not None:
            self.connection.pause()

    def _let_on(self) -> None:
        self.held_since, self.last_byte_at = None, self._loop.time()
        if self.connection is not None:
            self.connection.resume()

    def body(self) -> bytes:
        return b"".join(self.gathered)

    # daemon.gateway.upstream.Consumer

    def head(self, head: Head) -> None:
        self.response = head
        self.last_byte_at = self._loop.time()

    def data(self, data: bytes) -> None:
        self.last_byte_at = self._loop.time()
        if self._client is not None:
            self._client.write(data)
            return
        self.gathered.append(data)
        self.size += len(data)
        _set(self.first)
        if self.size > GATHERED_BYTES:
            _set(self.settled)
            if self.connection is not None:
                self.connection.pause()

    def end(self) -> None:
        self.over = True
        for future in (self.first, self.settled, self.done):
            _set(future)

    def lost(self, why: str) -> None:
        self.over = True
        for future in (self.first, self.settled, self.done):
            if not future.done():
                future.set_exception(UpstreamLost(why))


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _look(future: asyncio.Future[None]) -> None:
    """Mark an exception as seen: whoever waited may have gone."""
    if not future.cancelled():
        future.exception()
