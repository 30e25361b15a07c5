"""The OpenAI routes, and vLLM's tokenizer routes: each reads what routing needs and relays the rest."""

from __future__ import annotations

import asyncio
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
from daemon.gateway.responses.route import respond
from daemon.gateway.routing import RoutedCall, check_model_name, read_call
from daemon.http import json_response
from fcd.errors import invalid
from fcd.wire.admin import ModelInfo

RELAYED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
TOKENIZER = ("/tokenize", "/detokenize")

_BIG_BODY = 256 * 1024
"""Bodies from this size on are read in a thread, so that they hold up nobody else."""

AnyRequest = Request[Any, Any]


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

    async def relay(request: AnyRequest) -> HTTPResponse | None:
        call = await _read(request, needs_model=True)
        if special is not None and special.takes(request.path, call.model):
            if call.model != "best":
                return await special.answer(request)
            call, request.body = await special.best(call, request.body)
        return await _relay(request, call)

    async def tokenize(request: AnyRequest) -> HTTPResponse | None:
        call = await _read(request, needs_model=False)
        return await _relay(request, RoutedCall(call.model or only_ready_model(context)))

    async def _relay(request: AnyRequest, call: RoutedCall) -> HTTPResponse | None:
        order = Order(call.model, "POST", request.path, request.body, call.stream, call.keep_alive)
        return await relays.send(ClientStream(request), order)

    async def choose(path: str, call: RoutedCall, body: bytes) -> tuple[RoutedCall, bytes]:
        if special is None or not special.takes(path, call.model):
            return call, body
        if call.model != "best":
            raise invalid("model", f"'{call.model}' answers {path} only.")
        return await special.best(call, body)

    @routes.post("/v1/responses")
    async def responses(request: AnyRequest) -> HTTPResponse | None:
        return await respond(ClientStream(request), request.body, choose, relays.send)

    for path in RELAYED:
        routes.add_route(relay, path, methods=["POST"], name=_route_name(path))
    for path in TOKENIZER:
        routes.add_route(tokenize, path, methods=["POST"], name=_route_name(path))

    @routes.get("/tokenizer_info")
    async def tokenizer_info(request: AnyRequest) -> HTTPResponse | None:
        named = request.args.get("model")
        model = check_model_name(named) if named is not None else only_ready_model(context)
        order = Order(model, "GET", f"/tokenizer_info?model={quote(model, safe='')}")
        return await relays.send(ClientStream(request), order)

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


def _route_name(path: str) -> str:
    return path.strip("/").replace("/", "_")
