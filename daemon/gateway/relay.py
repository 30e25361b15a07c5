"""Relays one request to a worker: waits for a worker, sends, passes the answer on, and says so when it goes wrong."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial

import msgspec
from sanic.exceptions import RequestCancelled
from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.dispatch import Lease, Target
from daemon.gateway.exchange import Exchange
from daemon.gateway.fastchat.generation import Limits
from daemon.gateway.fastchat.peer import Peers
from daemon.gateway.fastchat.translation import Kind, Translation, embed
from daemon.gateway.fields import body_for
from daemon.gateway.images import check_images
from daemon.gateway.outlet import Outlet
from daemon.gateway.prefixes import prefixes_of
from daemon.gateway.profiles import with_profile
from daemon.gateway.upstream import Head, UpstreamConnection, UpstreamLost, UpstreamPool, request_bytes
from daemon.http import error_response, json_response
from fcd.errors import ApiError, api_error_from_body

log = logging.getLogger("fcd.gateway")

_TRIES = 2
MOST_HOPS = 4
"""A request that as many daemons have passed on goes to no worker that may be another one."""
_CLIENT_LEFT = 499
"""What the metrics count for a client that did not wait for its answer."""

_NOT_TAKEN = "client_stalled"

_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
_TRANSLATED: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
_NOT_PASSED_ON = _HOP_BY_HOP | {"proxy-authenticate", "proxy-authorization", "server", "date", "alt-svc", "set-cookie"}
"""Headers that belong to one connection, or that a worker has no business setting here."""


class Order(msgspec.Struct, frozen=True):
    """What is to be sent, and to which model's worker."""

    model: str
    method: str
    path: str
    body: bytes = b""
    stream: bool = False
    keep_alive: str = ""
    counted_as: str = ""
    """The route that the client called, where that is another."""
    hops: int = 0
    """How many daemons passed it on before this one."""


class Relay:
    """One request. `run` returns the answer to send, or None when it has been streamed."""

    def __init__(
        self,
        context: DaemonContext,
        pool: UpstreamPool,
        client: Outlet,
        order: Order,
        peers: Peers | None = None,
    ) -> None:
        self._context = context
        self._settings = context.settings.daemon
        self._pool = pool
        self._peers = peers or Peers()
        self._order = order
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._exchange: Exchange | None = None
        self._sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        self._commenting: asyncio.Task[None] | None = None
        self._interrupted: ApiError | None = None
        self._streamed_status = 200

    async def run(self) -> HTTPResponse | None:
        began = self._loop.time()
        self._context.active.add(self)
        self._client.begin()
        self._arm()
        status = 500
        try:
            response = await self._relay_or_fail(began)
            status = response.status if response is not None else self._streamed_status
            return response
        except asyncio.CancelledError:
            status = _CLIENT_LEFT
            raise
        finally:
            self._disarm()
            self._context.active.remove(self)
            self._context.metrics.count(self._order.counted_as or self._order.path.partition("?")[0], status)
            if status == _CLIENT_LEFT:
                self._context.metrics.disconnects += 1

    def cut(self) -> None:
        """End it at a shutdown."""
        self._interrupt(_shutting_down())

    async def _relay_or_fail(self, began: float) -> HTTPResponse | None:
        try:
            return await self._relay(began)
        except ApiError as error:
            return await self._fail(error)
        except asyncio.CancelledError:
            reason = self._interrupted
            if reason is None or self._client.left:
                raise
            if self._task is not None:
                self._task.uncancel()
            return await self._fail(reason)

    async def _relay(self, began: float) -> HTTPResponse | None:
        excluded: set[str] = set()
        lost: UpstreamLost | None = None
        for _ in range(_TRIES):
            lease = await self._acquire(excluded, lost)
            failed, reason = False, ""
            try:
                if lease.target.dialect == "fastchat":
                    return await self._translate(lease.target, began)
                exchange = await self._send(lease.target)
                self._context.metrics.first_byte.observe(self._loop.time() - began)
                return await self._deliver(exchange)
            except UpstreamLost as error:
                failed, reason, lost = True, str(error), error
                excluded.add(lease.target.worker)
                log.warning("worker %s did not answer: %s", lease.target.worker, error, extra=self._log_id())
            except ApiError as error:
                failed, reason = error.code in ("worker_died", "worker_timeout"), error.message
                raise
            except asyncio.CancelledError:
                failed = self._interrupted is not None and self._interrupted.code == "worker_timeout"
                reason = self._interrupted.message if self._interrupted is not None else "the client left"
                raise
            finally:
                self._end_exchange()
                lease.release(failed=failed, reason=reason)
            self._context.metrics.retries += 1
        raise self._died_before(lost, "")

    async def _acquire(self, excluded: set[str], lost: UpstreamLost | None) -> Lease:
        if self._context.draining:
            raise _shutting_down()
        try:
            return await self._context.controller.acquire(
                self._order.model,
                exclude=excluded,
                keep_alive=self._order.keep_alive,
                prefixes=partial(prefixes_of, self._order.body),
                ends_here=self._order.hops >= MOST_HOPS,
            )
        except ApiError as error:
            if lost is None:
                raise
            raise self._died_before(lost, f" No other worker could take it: {error.message}") from None

    async def _send(self, target: Target) -> Exchange:
        """The exchange, once its first byte is here.

        Raises:
            UpstreamLost: there will be none.
        """
        order = self._order
        await check_images(target, order.path, order.model, order.body)
        body = with_profile(order.body, order.path, order.model, self._context.settings)
        body = body_for(target, order.path, order.model, body)
        data = request_bytes(
            target, order.method, order.path, body, request_id=self._client.request_id, hops=order.hops + 1
        )
        connection = self._pool.take(target)
        if connection is not None:
            try:
                return await self._exchange_on(connection, data)
            except UpstreamLost:
                if self._exchange is not None and self._exchange.response is not None:
                    raise
                # A kept connection may have been closed by the worker just now: that says nothing about the worker.
                self._end_exchange()
        return await self._exchange_on(self._pool.connect_now(target) or await self._pool.connect(target), data)

    async def _exchange_on(self, connection: UpstreamConnection, data: bytes) -> Exchange:
        exchange = self._exchange = Exchange(self._open)
        exchange.connection = connection
        self._sent_at = self._loop.time()
        self._arm()
        connection.send(exchange, data)
        await exchange.first
        self._arm()
        return exchange

    async def _translate(self, target: Target, began: float) -> HTTPResponse | None:
        """Have a worker that speaks FastChat's wire answer."""
        order, limits = self._order, Limits(self._settings.first_byte_s, self._settings.stall_s)
        if order.path == "/v1/embeddings":
            answer = await embed(self._peers, target, order.model, order.body, limit_s=limits.first_byte_s)
            self._context.metrics.first_byte.observe(self._loop.time() - began)
            return json_response(answer)
        kind = _TRANSLATED.get(order.path)
        if kind is None:
            raise ApiError(
                501,
                f"A FastChat worker serves '{order.model}', and it has no route like {order.path.partition('?')[0]}.",
                code="unsupported",
            )
        translation = Translation(self._peers, target, model=order.model, limits=limits)
        await translation.prepare(kind, order.body)
        if order.stream:
            await self._stream_translated(translation, began)
            return None
        whole = await translation.whole()
        self._context.metrics.first_byte.observe(self._loop.time() - began)
        return json_response(whole)

    async def _stream_translated(self, translation: Translation, began: float) -> None:
        taking = asyncio.Event()
        taking.set()
        begun = False
        async with aclosing(translation.events()) as events:
            try:
                async for data in events:
                    if not begun:
                        begun = True
                        self._context.metrics.first_byte.observe(self._loop.time() - began)
                        await self._client.start()
                        self._client.follow(taking.clear, taking.set)
                    self._client.write(data)
                    async with asyncio.timeout(self._settings.stall_s):
                        await taking.wait()
            except TimeoutError:
                raise self._not_taken() from None
            except UpstreamLost as error:
                if not begun:
                    raise
                raise self._died_after(error) from None
        await self._client.end()

    async def _deliver(self, exchange: Exchange) -> HTTPResponse | None:
        head = exchange.response
        if head is None:
            raise UpstreamLost("it answered without a head")
        if 300 <= head.status < 400:
            # A redirect would send the client, with its key, to wherever the worker says.
            raise ApiError(502, f"The worker of '{self._order.model}' answered with a redirect.", code="bad_upstream")
        if _streams(head):
            await self._stream(exchange, head)
            return None
        return await self._whole(exchange, head)

    def _open(self, head: Head) -> Outlet | None:
        """The client, if it can take this answer's bytes from the first one on without waiting for a task's turn."""
        if not _streams(head) or self._interrupted is not None:
            return None
        return self._client if self._client.start_now(head.status, _passed_on(head)) else None

    async def _stream(self, exchange: Exchange, head: Head) -> None:
        """Pass an event stream on; what breaks it off is told to the client in the stream itself."""
        await self._client.start(head.status, _passed_on(head))
        exchange.splice(self._client)
        try:
            await exchange.done
        except UpstreamLost as error:
            raise self._died_after(error) from None
        await self._client.end()

    async def _whole(self, exchange: Exchange, head: Head) -> HTTPResponse | None:
        try:
            await exchange.settled
            if exchange.over or self._client.started:
                await exchange.done
                return await self._answer(exchange, head)
            await self._client.start(head.status, _passed_on(head))
            exchange.splice(self._client)
            await exchange.done
        except UpstreamLost as error:
            raise self._died_after(error) from None
        await self._client.end()
        return None

    async def _answer(self, exchange: Exchange, head: Head) -> HTTPResponse | None:
        if self._client.started:
            raise _error_of(exchange, head)
        response = HTTPResponse(exchange.body(), head.status, content_type=None)
        for name, value in _passed_on(head):
            response.headers.add(name, value)
        return response

    async def _fail(self, error: ApiError) -> HTTPResponse | None:
        if self._commenting is not None:
            await asyncio.wait((self._commenting,))
        if self._client.started:
            self._streamed_status = error.status
            if error.code == _NOT_TAKEN:
                self._client.cut()  # it would not take the error either
                return None
            await self._client.fail(error)
            return None
        return error_response(error)

    # Time

    def _arm(self) -> None:
        """Have a look in time. A look that comes too early costs less than one that is put off at every step."""
        at = self._next_look()
        if self._timer is not None:
            if self._looks_at <= at:
                return
            self._timer.cancel()
        self._looks_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _next_look(self) -> float:
        now = self._loop.time()
        limit = self._limit()
        comment = now + self._settings.sse_comment_s if self._order.stream else limit
        return max(min(limit, comment), now + 0.01)

    def _limit(self) -> float:
        """When the worker is late. Waiting for a worker has its own limits, in the controller."""
        exchange = self._exchange
        if exchange is None:
            return self._loop.time() + 3600.0
        if exchange.response is None or not exchange.begun:
            return self._sent_at + self._settings.first_byte_s
        if exchange.held_since is not None:
            return exchange.held_since + self._settings.stall_s
        return exchange.last_byte_at + self._settings.stall_s

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        exchange = self._exchange
        if exchange is not None and now >= self._limit():
            stuck = exchange.held_since is not None
            self._interrupt(self._not_taken() if stuck else self._too_late(exchange))
            return
        if self._order.stream and (
            exchange is None or now - exchange.last_byte_at >= 0.9 * self._settings.sse_comment_s
        ):
            if self._client.started:
                self._client.comment()
            elif self._commenting is None:
                self._commenting = self._loop.create_task(self._first_comment())
        self._arm()

    async def _first_comment(self) -> None:
        try:
            await self._client.start()
            self._client.comment()
        except (RequestCancelled, OSError):
            log.debug("the client left while it waited", extra=self._log_id())

    def _interrupt(self, error: ApiError) -> None:
        if self._interrupted is None and self._task is not None:
            self._interrupted = error
            self._task.cancel()

    def _disarm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disarm(self) -> None:
        self._disarm_timer()
        self._end_exchange()
        if self._commenting is not None:
            self._commenting.cancel()

    def _end_exchange(self) -> None:
        """Let the connection go: back to the pool it went by itself if the answer is complete, else it is closed."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.over and exchange.connection is not None:
            exchange.connection.close()

    # Errors

    def _log_id(self) -> dict[str, str]:
        return {"request_id": self._client.request_id, "model": self._order.model}

    def _died_before(self, lost: UpstreamLost | None, more: str) -> ApiError:
        return ApiError(
            502,
            f"The worker of '{self._order.model}' did not answer ({lost}).{more} `fcd ps` shows its state.",
            code="worker_died",
        )

    def _died_after(self, lost: UpstreamLost) -> ApiError:
        log.warning("an answer broke off: %s", lost, extra=self._log_id())
        return ApiError(
            502,
            f"The worker of '{self._order.model}' died before its answer was complete ({lost}). Ask again.",
            code="worker_died",
        )

    def _not_taken(self) -> ApiError:
        """The worker is not to blame, and gets its slot back."""
        log.info("a client took nothing for %g s", self._settings.stall_s, extra=self._log_id())
        return ApiError(
            408, f"The client took nothing for {self._settings.stall_s:g} s (daemon.stall_s).", code=_NOT_TAKEN
        )

    def _too_late(self, exchange: Exchange) -> ApiError:
        if exchange.begun:
            what = f"sent nothing for {self._settings.stall_s:g} s (daemon.stall_s)"
        else:
            what = f"did not begin to answer within {self._settings.first_byte_s:g} s (daemon.first_byte_s)"
        return ApiError(504, f"The worker of '{self._order.model}' {what}.", code="worker_timeout")


def _shutting_down() -> ApiError:
    return ApiError(503, "The daemon is shutting down. Try again in a moment.", code="shutting_down", retry_after=5)


def _streams(head: Head) -> bool:
    return head.status == 200 and head.get("content-type").startswith("text/event-stream")


def _passed_on(head: Head) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in head.headers
        if name not in _NOT_PASSED_ON and not name.startswith("access-control-")
    ]


def _error_of(exchange: Exchange, head: Head) -> ApiError:
    """A worker's whole answer, for a client whose event stream has begun already."""
    if head.status == 200:
        return ApiError(502, "The worker did not stream its answer.", code="worker_died")
    body = exchange.body()
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        decoded = body[:500].decode("utf-8", "replace")
    return api_error_from_body(head.status, decoded)
