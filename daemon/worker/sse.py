"""A response that is sent as it comes: its status waits for the first piece, silence is filled with comments."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from sanic.request import Request

from fcd.errors import ApiError
from fcd.wire.openai_answers import COMMENT, error_event

log = logging.getLogger("fcd.worker")

CONTENT_TYPE = "text/event-stream; charset=utf-8"
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStream:
    """One answer that is sent as it comes.

    Args:
        comment_s: after this long without a byte, `comment` is sent, which readers pass over.
    """

    def __init__(
        self,
        request: Request[Any, Any],
        comment_s: float,
        *,
        comment: bytes = COMMENT,
        content_type: str | None = CONTENT_TYPE,
    ) -> None:
        self._request = request
        self._comment_s = comment_s
        self._comment = comment
        self._content_type = content_type
        self._response: Any = None
        self._last = 0.0

    async def send(self, data: bytes) -> None:
        if self._response is None:
            self._response = await self._request.respond(content_type=self._content_type, headers=dict(_HEADERS))
        self._last = time.monotonic()
        await self._response.send(data)

    async def run(self, events: AsyncGenerator[bytes, None]) -> None:
        """Send everything. Until the first event or comment is out, an error becomes an ordinary error answer;
        afterwards it becomes an `error` event, and the stream ends without `[DONE]`.

        Raises:
            ApiError: before anything was sent.
        """
        try:
            async with aclosing(events):
                await self._run(events)
        except Exception as error:
            if self._response is None:
                raise
            if not isinstance(error, ApiError):
                log.exception("a stream failed")
                error = ApiError(500, "The worker failed here; its log says how.", code="internal_error")
            await self.send(error_event(error.body()))

    async def _run(self, events: AsyncIterator[bytes]) -> None:
        await self.send(await self._first(events))
        comments = asyncio.create_task(self._fill())
        try:
            async for data in events:
                await self.send(data)
        finally:
            comments.cancel()

    async def _first(self, events: AsyncIterator[bytes]) -> bytes:
        coming = asyncio.ensure_future(anext(events))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=self._comment_s)
                if done:
                    return coming.result()
                await self.send(self._comment)
        finally:
            if not coming.done():
                coming.cancel()
                with suppress(asyncio.CancelledError):
                    await coming

    async def _fill(self) -> None:
        while True:
            await asyncio.sleep(self._comment_s)
            if time.monotonic() - self._last >= self._comment_s:
                await self.send(self._comment)
