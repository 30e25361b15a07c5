"""Tells watchers what changed: each has a bounded queue, and one that does not keep up is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from fcd.wire.admin import DaemonEvent

_QUEUE = 1024
_WATCHERS = 256


class TooManyWatchers(Exception):
    pass


class Subscription:
    """What one watcher has not seen yet."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[DaemonEvent | None] = asyncio.Queue(_QUEUE)
        self.closed = False

    def offer(self, event: DaemonEvent) -> bool:
        """False when the watcher is too slow: it is closed, and can come back for the whole picture."""
        if self.closed:
            return False
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.close()
            return False
        return True

    def close(self) -> None:
        self.closed = True
        if self._queue.full():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def next(self) -> DaemonEvent | None:
        """The next event; None when there will be no more."""
        return await self._queue.get()

    async def __aiter__(self) -> AsyncIterator[DaemonEvent]:
        while (event := await self.next()) is not None:
            yield event


class Hub:
    def __init__(self) -> None:
        self._watchers: set[Subscription] = set()

    @property
    def watched(self) -> bool:
        return bool(self._watchers)

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Events from now on.

        Raises:
            TooManyWatchers: as many as may be are there.
        """
        if len(self._watchers) >= _WATCHERS:
            raise TooManyWatchers
        subscription = Subscription()
        self._watchers.add(subscription)
        try:
            yield subscription
        finally:
            self._watchers.discard(subscription)

    def publish(self, event: DaemonEvent) -> None:
        for watcher in list(self._watchers):
            if not watcher.offer(event):
                self._watchers.discard(watcher)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
        self._watchers.clear()
