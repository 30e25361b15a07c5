"""The OpenAI routes, and vLLM's tokenizer routes: each reads what routing needs and relays the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, unquote

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.context import DaemonContext
from daemon.gateway.client_stream import ClientStream
from daemon.gateway.models import find_model, model_card, model_list, only_ready_model
from daemon.gateway.relay import Order
from daemon.gateway.relays import Relays
from daemon.gateway.responses.route import PATH as RESPONSES
from daemon.gateway.responses.route import respond
from daemon.gateway.routing import RoutedCall, check_model_name, read_call
from daemon.gateway.upstream import HOPS_HEADER, hops_of
from daemon.http import json_response
from fcd.errors import ApiError, invalid
from fcd.wire.admin import ModelInfo

RELAYED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
TOKENIZER = ("/tokenize", "/detokenize")

_BIG_BODY = 256 * 1024
"""Bodies from this size on are read in a thread, so that they hold up nobody else."""

AnyRequest = Request[Any, Any]
Handler = Callable[[str, AnyRequest], Awaitable["HTTPResponse | None"]]
"""Answers a request for the path."""


class SpecialModels(Protocol):
    """Names that stand for no worker of their own."""

    def takes(self, path: str, model: str) -> bool: ...

    async def best(self, call: RoutedCall, body: bytes) -> tuple[RoutedCall, bytes]:
        """The call and the body for the model that `best` stands for now."""
        ...

    async def answer(self, request: AnyRequest) -> HTTPResponse | None: ...

    async def listed(self) -> list[str]:
        """Those of the names that would be answered now."""
        ...


def gateway_routes(context: DaemonContext, relays: Relays, special: SpecialModels | None = None) -> Blueprint:
    routes = Blueprint("gateway")

    async def relay(path: str, request: AnyRequest) -> HTTPResponse | None:
        call = await _read(request, needs_model=True)
        if special is not None and special.takes(path, call.model):
            if call.model != "best":
                return await special.answer(request)
            call, request.body = await special.best(call, request.body)
        return await _relay(path, request, call)

    async def tokenize(path: str, request: AnyRequest) -> HTTPResponse | None:
        call = await _read(request, needs_model=False)
        return await _relay(path, request, RoutedCall(call.model or only_ready_model(context)))

    async def _relay(path: str, request: AnyRequest, call: RoutedCall) -> HTTPResponse | None:
        order = Order(call.model, "POST", path, request.body, call.stream, call.keep_alive, hops=_hops(request))
        return await relays.send(ClientStream(request), order)

    async def counted(handler: Handler, path: str, request: AnyRequest) -> HTTPResponse | None:
        """Answer for a route under its own path, however it was spelt. Counts what is refused before a relay would."""
        try:
            return await handler(path, request)
        except ApiError as error:
            context.metrics.count(path, error.status)
            raise

    async def choose(path: str, call: RoutedCall, body: bytes) -> tuple[RoutedCall, bytes]:
        if special is None or not special.takes(path, call.model):
            return call, body
        if call.model != "best":
            raise invalid("model", f"'{call.model}' answers {path} only.")
        return await special.best(call, body)

    async def respond_to(path: str, request: AnyRequest) -> HTTPResponse | None:
        return await respond(ClientStream(request), request.body, choose, relays.send, hops=_hops(request))

    for path in RELAYED:
        routes.add_route(partial(counted, relay, path), path, methods=["POST"], name=_route_name(path))
    for path in TOKENIZER:
        routes.add_route(partial(counted, tokenize, path), path, methods=["POST"], name=_route_name(path))

    @routes.post("/v1/responses")
    async def responses(request: AnyRequest) -> HTTPResponse | None:
        return await counted(respond_to, RESPONSES, request)

    async def describe(path: str, request: AnyRequest) -> HTTPResponse | None:
        named = request.args.get("model")
        model = check_model_name(named) if named is not None else only_ready_model(context)
        order = Order(model, "GET", f"{path}?model={quote(model, safe='')}", hops=_hops(request))
        return await relays.send(ClientStream(request), order)

    @routes.get("/tokenizer_info")
    async def tokenizer_info(request: AnyRequest) -> HTTPResponse | None:
        return await counted(describe, "/tokenizer_info", request)

    @routes.get("/v1/models")
    async def list_models(request: AnyRequest) -> HTTPResponse:
        listed = model_list(context)
        listed["data"] += await _special_cards()
        return json_response(listed)

    @routes.get("/v1/models/<name:path>")
    async def show_model(request: AnyRequest, name: str) -> HTTPResponse:
        wanted = unquote(name)
        cards = {card["id"]: card for card in await _special_cards()}
        return json_response(cards.get(wanted) or find_model(context, wanted))

    async def _special_cards() -> list[dict[str, Any]]:
        names = await special.listed() if special is not None else []
        return [model_card(ModelInfo(each, "config"), int(context.started_at)) for each in names]

    return routes


async def _read(request: AnyRequest, *, needs_model: bool) -> RoutedCall:
    body = request.body
    if len(body) < _BIG_BODY:
        return read_call(body, needs_model=needs_model)
    return await asyncio.to_thread(read_call, body, needs_model=needs_model)


def _hops(request: AnyRequest) -> int:
    return hops_of(request.headers.getone(HOPS_HEADER, ""))


def _route_name(path: str) -> str:
    return path.strip("/").replace("/", "_")
