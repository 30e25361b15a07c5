"""One answer of a worker on its way: gathered until it is known what becomes of it, then passed straight on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from daemon.gateway.outlet import Outlet
from daemon.gateway.upstream import Head, UpstreamConnection, UpstreamLost

GATHERED_BYTES = 4 * 1024 * 1024
"""A longer body is not held whole: it is passed on as it comes."""

_FIRST, _SETTLED, _DONE = 1, 2, 3


class Exchange:
    """Takes what an `UpstreamConnection` hands on. One task at a time waits for it."""

    def __init__(self, opens: Callable[[Head], Outlet | None] | None = None) -> None:
        """`opens` is asked with the first bytes for whom to pass them on to at once; None has them gathered."""
        self._loop = asyncio.get_running_loop()
        self.connection: UpstreamConnection | None = None
        self.response: Head | None = None
        self.last_byte_at = self._loop.time()
        self.gathered: list[bytes] = []
        self.size = 0
        self.held_since: float | None = None
        """Since when the client takes nothing more, so that the worker is not read from; None while it does."""
        self.over = False
        """Nothing more will come: the answer ended, or its connection did."""
        self._opens = opens
        self._client: Outlet | None = None
        self._stage = 0
        self._failure: str | None = None
        self._waiter: asyncio.Future[None] | None = None

    # Waiting for it. Each raises UpstreamLost when it broke off before.

    @property
    def first(self) -> Awaitable[None]:
        """The first byte of the body, or the end of an answer without one."""
        return self._reach(_FIRST)

    @property
    def settled(self) -> Awaitable[None]:
        """The end, or a body that has grown past `GATHERED_BYTES`."""
        return self._reach(_SETTLED)

    @property
    def done(self) -> Awaitable[None]:
        return self._reach(_DONE)

    @property
    def begun(self) -> bool:
        """Whether the first byte came, or the end."""
        return self._stage >= _FIRST or self._failure is not None

    async def _reach(self, stage: int) -> None:
        while self._stage < stage:
            if self._failure is not None:
                raise UpstreamLost(self._failure)
            self._waiter = self._loop.create_future()
            await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Passing it on

    def splice(self, client: Outlet) -> None:
        """From now on bytes go straight to the client, first those gathered so far."""
        if self._client is not None:
            return
        self._client = client
        gathered, self.gathered = self.gathered, []
        if gathered:
            if self._stage == _DONE:
                client.last()
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

    def data(self, data: bytes, *, last: bool) -> None:
        self.last_byte_at = self._loop.time()
        if self._client is None and not self._stage and self._opens is not None and self.response is not None:
            opened = self._opens(self.response)
            if opened is not None:
                self.splice(opened)
        if self._client is not None:
            if last:
                self._client.last()
            self._client.write(data)
            self._advance(_FIRST)
            return
        self.gathered.append(data)
        self.size += len(data)
        self._advance(_FIRST)
        if self.size > GATHERED_BYTES:
            self._advance(_SETTLED)
            if self.connection is not None:
                self.connection.pause()

    def end(self) -> None:
        self.over = True
        self._advance(_DONE)

    def lost(self, why: str) -> None:
        self.over = True
        self._failure = why
        self._wake()

    def _advance(self, stage: int) -> None:
        if self._stage < stage:
            self._stage = stage
            self._wake()
