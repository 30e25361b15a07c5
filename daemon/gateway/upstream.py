"""Connections to workers: a protocol that hands bytes on as they arrive, and a pool that keeps connections alive."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import cached_property
from typing import Any, Protocol

import httptools
import msgspec

from daemon.dispatch import Target

CONNECT_S = 5.0
_ASK_AGAIN_S = 0.005
"""Between two tries where as many wait to be let in as may: of that, a socket of this machine never tells the end."""
_IDLE_S = 30.0
_MAX_IDLE = 256
"""For each worker: as many as a burst may take at once, so that the next one finds them."""
_MAX_HEAD_BYTES = 64 * 1024


class UpstreamLost(Exception):
    """The connection to the worker could not be made, or ended before the answer did."""


class Head(msgspec.Struct, frozen=True):
    status: int
    headers: list[tuple[str, str]]
    """Names in lower case."""

    def get(self, name: str) -> str:
        for key, value in self.headers:
            if key == name:
                return value
        return ""


class Consumer(Protocol):
    """Who takes one answer. Called from the event loop as the bytes come, in this order."""

    def head(self, head: Head) -> None: ...

    def data(self, data: bytes, *, last: bool) -> None:
        """Body bytes, without chunk framing; all that one read brought. `last`: `end` follows at once."""
        ...

    def end(self) -> None: ...

    def lost(self, why: str) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One HTTP/1.1 connection to a worker, with one exchange at a time."""

    def __init__(self, pool: UpstreamPool, address: Address, connected: socket.socket | None = None) -> None:
        """`connected` is written to as it is until the loop has made a transport of it."""
        self.address = address
        self.idle_since = 0.0
        self._pool = pool
        self._transport: Any = None
        self._connected = connected
        self._unsent = b""
        self._closed = False
        self._consumer: Consumer | None = None
        self._parser: Any = None
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._parts: list[bytes] = []
        self._ended = False
        self._reusable = False
        self._got_head = False
        self._until_close = False

    def send(self, consumer: Consumer, request: bytes) -> None:
        """Write one request; its answer goes to `consumer`."""
        self._consumer = consumer
        self._parser = httptools.HttpResponseParser(self)
        self._headers, self._head_bytes, self._parts = [], 0, []
        self._ended = self._got_head = self._until_close = False
        if self._connected is not None:
            self._unsent = _send_now(self._connected, request)
            return
        if self._transport is None or self._transport.is_closing():
            self._consumer = None
            consumer.lost("the connection is closed")
            return
        self._transport.write(request)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """End it at once, whatever it carries: the worker sees that nobody listens."""
        self._consumer, self._closed = None, True
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._connected = transport, None
        if self._closed:
            self._transport.abort()
        elif self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""

    def data_received(self, data: bytes) -> None:
        if self._consumer is None:
            self._broken("bytes that nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._broken(f"not HTTP: {error}")
            return
        self._hand_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = self._connected = None
        self._pool.forget(self)
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        if self._until_close and exc is None:
            consumer.end()
        else:
            consumer.lost(str(exc) if exc else "it closed the connection")

    def _hand_on(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        if self._parts:
            parts = self._parts
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            self._parts = []
            consumer.data(data, last=self._ended)
        if self._ended:
            self._consumer = None
            if self._reusable:
                self.resume()
                self._pool.give(self)
            elif self._transport is not None:
                self._transport.close()
            consumer.end()

    def _broken(self, why: str) -> None:
        consumer, self._consumer = self._consumer, None
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()
        if consumer is not None:
            consumer.lost(why)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise ValueError("the head is too long")
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200:
            return
        self._got_head = True
        head = Head(status, self._headers)
        chunked = "chunked" in head.get("transfer-encoding").lower()
        self._until_close = not chunked and not head.get("content-length") and status not in (204, 304)
        if self._consumer is not None:
            self._consumer.head(head)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._got_head:
            self._ended = True
            self._reusable = self._parser.should_keep_alive() and not self._until_close
        else:
            self._headers, self._head_bytes = [], 0


Address = tuple[str, int, str, bool]
"""Host, port, unix socket, TLS: what connections are kept by."""


class UpstreamPool:
    """Connections to workers that are open and free. Bounded, and empty again when workers go."""

    def __init__(self) -> None:
        self._idle: dict[Address, list[UpstreamConnection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._attaching: set[asyncio.Task[None]] = set()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The loop that all of it runs on. Asking for it is a system call each time, so it is asked for once."""
        return asyncio.get_running_loop()

    def take(self, target: Target) -> UpstreamConnection | None:
        """A connection that is open and was used lately, if there is one."""
        address = _address(target)
        now = self._loop.time()
        free = self._idle.get(address, [])
        while free:
            connection = free.pop()
            if connection.is_open and now - connection.idle_since < _IDLE_S:
                return connection
            connection.close()
        self._idle.pop(address, None)
        return None

    def connect_now(self, target: Target) -> UpstreamConnection | None:
        """A new connection to a worker's socket without waiting, where that goes: not to other machines, nor while too
        many wait there to be let in.

        A request that waits for its connection waits for the loop's turn, behind everybody who arrived with it; in a
        burst the worker would get its first request when the last one has been read.

        Raises:
            UpstreamLost: it cannot be made.
        """
        if not target.socket:
            return None
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            connected.connect(target.socket)
        except BlockingIOError:
            connected.close()
            return None
        except OSError as error:
            connected.close()
            raise UpstreamLost(error.strerror or str(error)) from None
        connection = UpstreamConnection(self, _address(target), connected)
        # A task of its own, because a request that is cancelled must not leave a half-made transport.
        task = self._loop.create_task(self._attach(connection, connected))
        self._attaching.add(task)
        task.add_done_callback(self._attaching.discard)
        return connection

    async def _attach(self, connection: UpstreamConnection, connected: socket.socket) -> None:
        try:
            await self._loop.create_unix_connection(lambda: connection, sock=connected)
        except OSError as error:
            connected.close()
            connection.connection_lost(error)

    async def connect(self, target: Target) -> UpstreamConnection:
        """A new connection.

        Raises:
            UpstreamLost: it cannot be made.
        """
        loop = self._loop
        address = _address(target)
        try:
            async with asyncio.timeout(CONNECT_S):
                if target.socket:
                    while (connected := self.connect_now(target)) is None:  # noqa: ASYNC110
                        await asyncio.sleep(_ASK_AGAIN_S)
                    return connected
                _, connection = await loop.create_connection(
                    lambda: UpstreamConnection(self, address),
                    target.host,
                    target.port,
                    ssl=self._tls_context() if target.tls else None,
                )
        except TimeoutError:
            raise UpstreamLost(f"no connection within {CONNECT_S:.0f} s") from None
        except ssl.SSLCertVerificationError as error:
            raise UpstreamLost(f"its certificate is not trusted: {error.verify_message}") from None
        except OSError as error:
            raise UpstreamLost(error.strerror or str(error)) from None
        return connection

    def give(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose answer is complete."""
        connection.idle_since = self._loop.time()
        free = self._idle.setdefault(connection.address, [])
        free.append(connection)
        if len(free) > _MAX_IDLE:
            free.pop(0).close()
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(_IDLE_S, self._sweep)

    def forget(self, connection: UpstreamConnection) -> None:
        free = self._idle.get(connection.address)
        if free is not None and connection in free:
            free.remove(connection)
            if not free:
                del self._idle[connection.address]

    def _sweep(self) -> None:
        """Close those that nobody took for too long: a machine that vanished never says so."""
        loop = self._loop
        self._sweeping = None
        for address, free in list(self._idle.items()):
            for connection in [each for each in free if loop.time() - each.idle_since >= _IDLE_S]:
                free.remove(connection)
                connection.close()
            if not free:
                self._idle.pop(address, None)
        if self._idle:
            self._sweeping = loop.call_later(_IDLE_S, self._sweep)

    def close(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        for free in list(self._idle.values()):
            for connection in list(free):
                connection.close()
        self._idle.clear()

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


HOPS_HEADER = "X-Fcd-Hops"


def hops_of(header: str) -> int:
    """How many daemons a request has passed before this one."""
    return int(header) if header.isascii() and header.isdigit() and len(header) < 4 else 0


def _send_now(connected: socket.socket, data: bytes) -> bytes:
    """What the socket does not take at once. What is wrong with it, its transport will find."""
    try:
        return data[connected.send(data) :]
    except OSError:
        return data


def _address(target: Target) -> Address:
    return (target.host, target.port, target.socket, target.tls)


def request_bytes(target: Target, method: str, path: str, body: bytes, *, request_id: str, hops: int = 0) -> bytes:
    """One HTTP/1.1 request. Nothing of the client's headers goes on but its request id.

    `hops`: how many daemons it has passed, this one included; 0 says nothing of it.
    """
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = not target.port or target.port == (443 if target.tls else 80)
    lines = [
        f"{method} {target.base_path}{path} HTTP/1.1",
        f"Host: {host}" if usual else f"Host: {host}:{target.port}",
        f"X-Request-Id: {request_id}",
        "Accept: */*",
    ]
    if not target.socket:
        # Says that the name in the body has been looked up: it may be an alias that the worker does not know.
        lines.append("X-Fcd-Model: routed")
        if hops:
            lines.append(f"{HOPS_HEADER}: {hops}")
    if target.api_key:
        lines.append(f"Authorization: Bearer {target.api_key}")
    if method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
