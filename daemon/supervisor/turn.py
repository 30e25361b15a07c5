"""Puts workers to sleep and wakes them, over the control routes of their own port."""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

import httpx2 as httpx

from daemon.dispatch import Target
from daemon.supervisor.probe import authorization, base_url

Way = Literal["sleep", "wake"]
_ROUTES = {"sleep": "/sleep?level=1", "wake": "/wake_up"}
_LONGEST = 300


class Turner(Protocol):
    async def __call__(self, target: Target, way: Way) -> str:
        """Returns when it sleeps, or is awake: an empty string, or why it could not. Raises nothing."""
        ...


class HttpTurner:
    """POST /sleep?level=1 and POST /wake_up, each answered when it is done."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    async def __call__(self, target: Target, way: Way) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(target, way)
        except TimeoutError:
            return f"It took longer than {self._timeout_s:g} s to {way}."
        except (httpx.HTTPError, OSError) as error:
            return f"It could not be asked to {way}: {error or type(error).__name__}."

    async def _ask(self, target: Target, way: Way) -> str:
        # A worker's own port, always: the socket may be its engine's, whose sleep the worker would not hear of.
        transport = httpx.AsyncHTTPTransport(verify=target.tls)
        async with httpx.AsyncClient(transport=transport, timeout=self._timeout_s) as client:
            answer = await client.post(f"{base_url(target)}{_ROUTES[way]}", headers=authorization(target))
            if answer.status_code < 300:
                return ""
            return f"Asked to {way}, it answered with HTTP status {answer.status_code}: {answer.text[:_LONGEST]}"
