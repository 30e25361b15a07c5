"""A relayed answer as the client's connection takes it: whole events, comments between them, and how it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from daemon.gateway.sse import COMMENT, CONTENT_TYPE, complete_length, error_event
from fcd.errors import ApiError

_EVENTS = [("content-type", CONTENT_TYPE)]
_LONGEST_EVENT = 1 << 20
"""An event longer than this is passed on in pieces."""


class EventStream(ABC):
    """One answer that streams. `pause` and `resume` are called when the client is slower than we are."""

    def __init__(self) -> None:
        self._by_events = True
        self._held = b""
        self._between_events = True
        self._on_pause: Callable[[], None] | None = None
        self._on_resume: Callable[[], None] | None = None
        self._paused = False

    @property
    @abstractmethod
    def started(self) -> bool: ...

    @abstractmethod
    async def end(self) -> None:
        """The proper end of the answer."""

    @abstractmethod
    def cut(self) -> None:
        """Close the connection in the middle of the answer, so that nobody takes it for whole."""

    @abstractmethod
    def _put(self, data: bytes) -> None:
        """Write body bytes to the connection."""

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

    @abstractmethod
    def last(self) -> None:
        """What is written next is the last of the answer: it may wait for `end`, and leave together with it."""

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

    def pause(self) -> None:
        self._paused = True
        if self._on_pause is not None:
            self._on_pause()

    def resume(self) -> None:
        self._paused = False
        if self._on_resume is not None:
            self._on_resume()

    def _headers(self, given: list[tuple[str, str]] | None) -> list[tuple[str, str]]:
        """The head's fields as they go out; those of an event stream say that nothing on the way may hold it back."""
        headers = [each for each in given or _EVENTS if each[0] != "x-accel-buffering"]
        named = dict(headers)
        self._by_events = named.get("content-type", "").startswith("text/event-stream")
        if self._by_events:
            if "cache-control" not in named:
                headers.append(("Cache-Control", "no-cache"))
            headers.append(("X-Accel-Buffering", "no"))
        return headers

    def _flush_held(self) -> None:
        """The last bytes of an answer that did not end with its event."""
        if self._held:
            self._put(self._held)
            self._held = b""
