"""Who an answer is relayed to: a client on a connection (`ClientStream`), or a part of the daemon itself (`Inbox`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
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

    def start_now(self, status: int, headers: list[tuple[str, str]]) -> bool:
        """Start without waiting, where that can be done: the first bytes follow at once. Whether it was done."""
        ...

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None: ...

    def write(self, data: bytes) -> None: ...

    def last(self) -> None:
        """What is written next is the last of the answer: it may wait for `end`, and leave together with it."""
        ...

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

    def start_now(self, status: int, headers: list[tuple[str, str]]) -> bool:
        return False

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """The reader is never slower than a model writes: nothing is paused."""

    def write(self, data: bytes) -> None:
        try:
            for name, text in self._reader.feed(data):
                self._take(name, text)
        except ApiError as error:
            self.refuse(error)

    def _take(self, name: str, text: str) -> None:
        if text == "[DONE]":
            return
        try:
            chunk = msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise ApiError(502, "The worker sent an event that is no JSON.", code="worker_died") from None
        if name == "error" or (isinstance(chunk, dict) and "error" in chunk):
            self.refuse(api_error_from_body(500, chunk))
        elif isinstance(chunk, dict):
            self._events.put_nowait(chunk)

    def last(self) -> None: ...

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
        self._lost = False

    def feed(self, data: bytes) -> Iterator[tuple[str, str]]:
        """Name and data of each event that is complete now. After one that is too long there are no more.

        Raises:
            ApiError: 502, once those before it are handed out: one is longer than is taken.
        """
        if self._lost:
            return
        self._held = (self._held + data).replace(b"\r\n", b"\n")
        *whole, self._held = self._held.split(b"\n\n")
        for part in whole:
            self._check(part)
            name, text = _event(part)
            if text:
                yield name, text
        self._check(self._held)

    def _check(self, part: bytes) -> None:
        if len(part) <= _LONGEST_EVENT:
            return
        self._held, self._lost = b"", True
        raise ApiError(
            502,
            f"The worker sent an event of more than {_LONGEST_EVENT // 2**20} MiB, which is not taken: the answer ends"
            " here. Ask for less at once, such as fewer `top_logprobs`.",
            code="event_too_long",
        )


def _event(part: bytes) -> tuple[str, str]:
    name, data = "", list[str]()
    for line in part.decode("utf-8", "replace").split("\n"):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("event:"):
            name = line[6:].strip()
    return name, "\n".join(data)
