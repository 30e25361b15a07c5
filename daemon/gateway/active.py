"""The requests that the gateway is answering now, so that a shutdown can wait for them or cut them."""

from __future__ import annotations

import asyncio
from typing import Protocol


class Cuttable(Protocol):
    def cut(self) -> None:
        """End it now, with an error that says why."""
        ...


class ActiveRequests:
    def __init__(self) -> None:
        self._running: set[Cuttable] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._running)

    def add(self, request: Cuttable) -> None:
        self._running.add(request)
        self._idle.clear()

    def remove(self, request: Cuttable) -> None:
        self._running.discard(request)
        if not self._running:
            self._idle.set()

    async def wait_idle(self) -> None:
        await self._idle.wait()

    def cut_all(self) -> None:
        for request in list(self._running):
            request.cut()
