"""Where the relay writes a chat that is really a response: to a client as events, or together into one object."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from daemon.gateway.client_stream import ClientStream
from daemon.gateway.outlet import EventReader
from daemon.gateway.responses.building import Building, Event
from daemon.gateway.responses.chat import renamed
from fcd.errors import ApiError, api_error_from_body


class ResponseOutlet:
    """A `daemon.gateway.outlet.Outlet`. With `streams`, events go to the client as they come about."""

    def __init__(self, client: ClientStream, building: Building, *, streams: bool) -> None:
        self._client = client
        self._building = building
        self._streams = streams
        self._reader = EventReader()
        self.error: ApiError | None = None
        self.done = False
        """The response is whole; without `streams`, it is there to be sent."""

    @property
    def request_id(self) -> str:
        return self._client.request_id

    @property
    def started(self) -> bool:
        return self._client.started

    @property
    def left(self) -> bool:
        return self._client.left

    def begin(self) -> None:
        self._client.begin()

    def start_now(self, status: int, headers: list[tuple[str, str]]) -> bool:
        return False

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        if self._streams and not self._client.started:
            await self._client.start()
            self._send(self._building.begin())

    def follow(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        if self._streams:
            self._client.follow(pause, resume)

    def last(self) -> None: ...

    def write(self, data: bytes) -> None:
        try:
            for name, text in self._reader.feed(data):
                if text != "[DONE]" and self.error is None:
                    self._take(name, text)
        except ApiError as error:
            self.error = self.error or error

    def _take(self, name: str, text: str) -> None:
        try:
            chunk = msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise ApiError(502, "The worker sent an event that is no JSON.", code="worker_died") from None
        if name == "error" or (isinstance(chunk, dict) and "error" in chunk):
            self.error = renamed(api_error_from_body(500, chunk))
        elif isinstance(chunk, dict):
            self._send(self._building.feed(chunk))

    def comment(self) -> None:
        self._client.comment()

    async def fail(self, error: ApiError) -> None:
        error = renamed(error)
        self._send(self._building.fail(error))
        await self._client.fail(error)

    async def end(self) -> None:
        if self.error is None and not self._building.is_whole:
            self.error = ApiError(502, "The worker ended its answer without saying why. Ask again.", code="worker_died")
        if self.error is None:
            self._send(self._building.end(time.time()))
            self.done = True
        elif self._streams:
            self._send(self._building.fail(self.error))
            await self._client.fail(self.error)
            return
        if self._streams:
            await self._client.end()

    def cut(self) -> None:
        self._client.cut()

    def _send(self, events: list[Event]) -> None:
        if self._streams:
            for event in events:
                self._client.write(f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n")
