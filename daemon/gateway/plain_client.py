"""The client's side of an answer to a plain request: heads and bodies are written to its connection at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

from sanic.headers import format_http1_response
from sanic.helpers import has_message_body
from sanic.response import HTTPResponse

from daemon.gateway.events import EventStream


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return format_http1_response(status, ())[:-2]


class Connection(Protocol):
    """What an answer needs of the connection that it goes to."""

    transport: Any
    lost: bool
    """The client is gone."""


class PlainClient(EventStream):
    """One answer, whole or streamed. `headers` go out with either, where the answer has none of that name."""

    def __init__(
        self, connection: Connection, request_id: str, headers: Mapping[str, str], *, keep_alive: bool
    ) -> None:
        super().__init__()
        self.request_id = request_id
        self.complete = False
        """The answer is out, so that the connection can take the next request."""
        self._connection = connection
        self._more = headers
        self._keep_alive = keep_alive
        self._started = False
        self._unsent = b""
        """The head, until the first bytes come; the last bytes, until the end does."""
        self._is_last = False

    @property
    def started(self) -> bool:
        return self._started

    @property
    def left(self) -> bool:
        return self._connection.lost

    def begin(self) -> None:
        """The connection is read already, so that a client that leaves is noticed."""

    def start_now(self, status: int, headers: list[tuple[str, str]] | None) -> bool:
        """Begin the answer; its head goes out with the first bytes, which come at once."""
        if not self._started:
            self._started = True
            fields = self._headers(headers)
            named = [name.lower() for name, _ in fields]
            fields += [(name, value) for name, value in self._more.items() if name.lower() not in named]
            lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
            connection = "keep-alive" if self._keep_alive else "close"
            lines += f"transfer-encoding: chunked\r\nconnection: {connection}\r\n\r\n"
            self._unsent = _status_line(status) + lines.encode("latin-1")
        return True

    async def start(self, status: int = 200, headers: list[tuple[str, str]] | None = None) -> None:
        """Begin the answer, once; later calls do nothing."""
        self.start_now(status, headers)

    def answer(self, response: HTTPResponse) -> None:
        """The whole answer."""
        self._started = True
        body, headers = response.body or b"", response.headers
        for name, value in self._more.items():
            headers.setdefault(name, value)
        if has_message_body(response.status):  # type: ignore[no-untyped-call]
            headers["content-length"] = str(len(body))
        else:
            headers.pop("content-length", None)
            body = b""
        headers["connection"] = "keep-alive" if self._keep_alive else "close"
        self._write(format_http1_response(response.status, response.processed_headers) + body)
        self.complete = True

    async def end(self) -> None:
        """The proper end of the answer."""
        if not self.complete:
            self.complete = True
            self._flush_held()
            self._on_pause = self._on_resume = None
            self._write(self._unsent + b"0\r\n\r\n")

    def cut(self) -> None:
        """Close the connection in the middle of the answer, so that nobody takes it for whole."""
        self._on_pause = self._on_resume = None
        self._connection.transport.abort()

    def last(self) -> None:
        self._is_last = True

    def _put(self, data: bytes) -> None:
        if not data:
            return
        data = b"%b%x\r\n%b\r\n" % (self._unsent, len(data), data)
        if self._is_last:
            self._unsent = data
        else:
            self._write(data)

    def _write(self, data: bytes) -> None:
        self._unsent = b""
        transport = self._connection.transport
        if not transport.is_closing():
            transport.write(data)
