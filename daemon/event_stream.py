"""Events of the daemon's own routes, sent to one client as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from sanic.request import Request

from daemon.gateway.sse import COMMENT, CONTENT_TYPE

T = TypeVar("T")

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def send_events(
    request: Request[Any, Any], events: AsyncGenerator[T, None], line: Callable[[T], bytes], comment_s: float
) -> None:
    """Send events as they come, and a comment when none came for a while. A client that leaves only stops watching."""
    async with aclosing(events):
        # The first event before the head: what is wrong at once is answered with an error, not within a stream.
        following = asyncio.ensure_future(anext(events, None))
        try:
            await asyncio.wait((following,), timeout=0.01)
            if following.done():
                following.result()
            response: Any = await request.respond(content_type=CONTENT_TYPE, headers=_HEADERS)
            while True:
                done, _ = await asyncio.wait((following,), timeout=comment_s)
                if not done:
                    await response.send(COMMENT)
                    continue
                event = following.result()
                if event is None:
                    break
                await response.send(line(event))
                following = asyncio.ensure_future(anext(events, None))
        finally:
            following.cancel()
            await asyncio.wait((following,))
    await response.send(end_stream=True)
