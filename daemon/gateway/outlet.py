"""Who an answer is relayed to: a client on a connection (`ClientStream`), or a part of the daemon itself (`Inbox`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

import msgspec

from fcd.errors import ApiError, api_error_from_body

_LONGEST_EVENT = 16 * 1024 * 1024


class Outlet(Protocol):
    """What a relay needs of whoever it answers."""

    @property
    def request_id(self) -> str: ...

    @property
    def started(self) -> bool:
        """The head of the answer is out: what goes wrong now is told in the stream."""
        ...

    @property
    def left(self) -> bool:
        """Nobody is there any more."""
        ...

    def begin(self) -> None:
        """The relay has taken it."""
        ...

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None: ...

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None: ...

    def write(self, data: bytes) -> None: ...

    def comment(self) -> None: ...

    async def fail(self, error: ApiError) -> None: ...

    async def end(self) -> None: ...

    def cut(self) -> None:
        """Whoever is answered takes nothing any more: let go of the connection."""
        ...


class Inbox:
    """An answer's events for a part of the daemon: no connection, no port, the same relay as everybody's."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.started = False
        self.left = False
        self._reader = EventReader()
        self._events: asyncio.Queue[dict[str, Any] | ApiError | None] = asyncio.Queue()

    def begin(self) -> None: ...

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        self.started = True

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """The reader is never slower than a model writes: nothing is paused."""

    def write(self, data: bytes) -> None:
        for name, text in self._reader.feed(data):
            if text == "[DONE]":
                continue
            try:
                chunk = msgspec.json.decode(text)
            except msgspec.DecodeError:
                self.refuse(ApiError(502, "The worker sent an event that is no JSON.", code="worker_died"))
                return
            if name == "error" or (isinstance(chunk, dict) and "error" in chunk):
                self.refuse(api_error_from_body(500, chunk))
            elif isinstance(chunk, dict):
                self._events.put_nowait(chunk)

    def comment(self) -> None: ...

    async def fail(self, error: ApiError) -> None:
        self.refuse(error)

    async def end(self) -> None:
        self._events.put_nowait(None)

    def cut(self) -> None:
        """There is no connection."""

    def refuse(self, error: ApiError) -> None:
        """There is no answer, or only a part of one."""
        self._events.put_nowait(error)

    async def chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        """OpenAI's chunks to the end of the answer. Raises ApiError when it broke off."""
        while (chunk := await self._events.get()) is not None:
            if isinstance(chunk, ApiError):
                raise chunk
            yield chunk


class EventReader:
    """Server-sent events out of bytes that were cut anywhere."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[str, str]]:
        """Name and data of each event that is complete now."""
        self._held = (self._held + data).replace(b"\r\n", b"\n")
        *whole, self._held = self._held.split(b"\n\n")
        if len(self._held) > _LONGEST_EVENT:
            self._held = b""
        return [event for part in whole if (event := _event(part))[1]]


def _event(part: bytes) -> tuple[str, str]:
    name, data = "", list[str]()
    for line in part.decode("utf-8", "replace").split("\n"):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()
    return name, "\n".join(data)
