"""POST /v1/responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec
from sanic.response import HTTPResponse

from daemon.gateway.client_stream import ClientStream
from daemon.gateway.outlet import Outlet
from daemon.gateway.relay import Order
from daemon.gateway.responses.building import Building
from daemon.gateway.responses.chat import chat_body, renamed
from daemon.gateway.responses.outlets import ResponseOutlet
from daemon.gateway.routing import RoutedCall, read_call
from daemon.http import error_response, json_response
from fcd.errors import ApiError, api_error_from_body
from fcd.wire.openai_responses import ResponsesRequest, parse_responses

PATH = "/v1/responses"
CHAT = "/v1/chat/completions"
_BIG_BODY = 256 * 1024

Send = Callable[[Outlet, Order], Awaitable["HTTPResponse | None"]]
"""Relay an order; an answer to send, or None when it was written to the outlet."""
Choose = Callable[[str, RoutedCall, bytes], Awaitable[tuple[RoutedCall, bytes]]]
"""The call and its body for the model that a name stands for. Raises ApiError for names that answer no such request."""


async def respond(
    client: ClientStream, body: bytes, choose: Choose, send: Send, *, hops: int = 0
) -> HTTPResponse | None:
    """Answer a request as a chat is answered.

    Raises:
        ApiError: 400, before anything is asked.
    """
    asked, call, chat = await asyncio.to_thread(_read, body) if len(body) >= _BIG_BODY else _read(body)
    try:
        call, chat = await choose(CHAT, call, chat)
        building = Building(asked, time.time())
        outlet = ResponseOutlet(client, building, streams=bool(asked.stream))
        order = Order(call.model, "POST", CHAT, chat, True, call.keep_alive, PATH, hops)
        refusal = await send(outlet, order)
    except ApiError as error:
        raise renamed(error) from None
    if refusal is not None:
        return _refused(refusal)
    if asked.stream:
        return None
    if outlet.done:
        return json_response(building.response)
    return error_response(outlet.error or ApiError(502, "There was no answer.", code="worker_died"))


def _read(body: bytes) -> tuple[ResponsesRequest, RoutedCall, bytes]:
    asked = parse_responses(body)
    chat = msgspec.json.encode(chat_body(asked))
    return asked, read_call(chat), chat


def _refused(answer: HTTPResponse) -> HTTPResponse:
    """A chat's refusal in this route's words."""
    if answer.status < 400:
        return error_response(ApiError(502, "The worker did not stream its answer.", code="bad_upstream"))
    try:
        error = renamed(api_error_from_body(answer.status, msgspec.json.decode(answer.body or b"")))
    except (msgspec.DecodeError, RecursionError):
        return answer
    made = error_response(error)
    for name in ("retry-after",):
        if name in answer.headers:
            made.headers[name] = answer.headers[name]
    return made
