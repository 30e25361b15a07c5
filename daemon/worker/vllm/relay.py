"""vLLM's OpenAI routes on the worker's own port, for daemons on other machines: bytes pass as they are.

A daemon on this machine speaks to vLLM's socket itself. vLLM's development routes are not among those passed on.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.dispatch import Target
from daemon.gateway.client_stream import ClientStream
from daemon.gateway.exchange import Exchange
from daemon.gateway.fields import body_for
from daemon.gateway.images import check_images
from daemon.gateway.routing import read_call
from daemon.gateway.upstream import Head, UpstreamLost, UpstreamPool, request_bytes
from daemon.http import error_response
from daemon.worker.child.fastchat import Serving
from daemon.worker.vllm.schema import ROUTES
from fcd.errors import ApiError, model_not_found

AnyRequest = Request[Any, Any]

_ROUTED = "x-fcd-model"
_PASSED_ON = ("content-type", "x-request-id")


class Relay:
    """The way to vLLM's socket. `fields` is filled once it runs."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._pool = UpstreamPool()
        self.fields: dict[str, list[str]] = {}
        self.sees = False
        """Whether its model takes images."""

    async def run(self, request: AnyRequest) -> HTTPResponse | None:
        """Pass one request on; None when its answer has been streamed.

        Raises:
            ApiError: vLLM is not ready or not there, or the request is none for it.
        """
        server = self._serving.ready()
        target = Target(
            "vllm",
            socket=server.socket,
            serves=(server.model, *server.models),
            fields=self.fields,
            images="takes" if self.sees else "refuses",
        )
        body = b""
        if request.method == "POST":
            call = read_call(request.body, needs_model=request.path.startswith("/v1/"))
            if call.model and call.model not in target.serves and not self._is_routed(request):
                raise model_not_found(call.model, list(server.models)[:1])
            await check_images(target, request.path, call.model or server.model, request.body)
            body = body_for(target, request.path, call.model or server.model, request.body)
        path = request.path + (f"?{request.query_string}" if request.query_string else "")
        data = request_bytes(target, request.method, path, body, request_id=str(request.id)[:64])
        try:
            return await self._pass(request, target, data)
        except UpstreamLost as error:
            raise ApiError(502, f"vLLM did not answer ({error}).", code="worker_died") from None

    def _is_routed(self, request: AnyRequest) -> bool:
        """A gateway has chosen this worker for whatever name the client used."""
        return _ROUTED in request.headers or bool(self._serving.worker.options.api_key)

    async def _pass(self, request: AnyRequest, target: Target, data: bytes) -> HTTPResponse | None:
        connection = self._pool.take(target) or await self._pool.connect(target)
        exchange = Exchange()
        exchange.connection = connection
        connection.send(exchange, data)
        try:
            await exchange.first
            head = exchange.response
            if head is None:
                raise UpstreamLost("it answered without a head")
            if head.get("content-type").startswith("text/event-stream"):
                await self._stream(request, exchange, head)
                return None
            await exchange.settled
            if not exchange.over:
                await self._stream(request, exchange, head)
                return None
            return HTTPResponse(exchange.body(), head.status, content_type=head.get("content-type") or None)
        finally:
            if not exchange.over:
                connection.close()

    async def _stream(self, request: AnyRequest, exchange: Exchange, head: Head) -> None:
        client = ClientStream(request)
        await client.start(head.status, [(name, value) for name, value in head.headers if name in _PASSED_ON])
        exchange.splice(client)
        try:
            await exchange.done
        except UpstreamLost as error:
            await client.fail(ApiError(502, f"vLLM died before its answer was complete ({error}).", code="worker_died"))
            return
        await client.end()

    def close(self) -> None:
        self._pool.close()


def relay_routes(relay: Relay) -> Blueprint:
    routes = Blueprint("openai")

    async def answer(request: AnyRequest) -> HTTPResponse | None:
        try:
            return await relay.run(request)
        except asyncio.CancelledError:
            raise
        except ApiError as error:
            return error_response(error)

    for number, path in enumerate(ROUTES):
        routes.add_route(answer, path, methods=["POST"], name=f"post_{number}")
    for number, path in enumerate(("/v1/models", "/tokenizer_info", "/metrics", "/version")):
        routes.add_route(answer, path, methods=["GET"], name=f"get_{number}")
    return routes
