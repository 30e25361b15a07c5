"""Asks a model for an answer through the gateway's own relay, inside this process.

So waiting, loading, failing over, limits on time and FastChat's workers are the relay's, and no port is between.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from daemon.context import DaemonContext
from daemon.gateway.fastchat.peer import Peers
from daemon.gateway.outlet import Inbox
from daemon.gateway.relay import Order, Relay
from daemon.gateway.routes import SpecialModels
from daemon.gateway.routing import RoutedCall
from daemon.gateway.upstream import UpstreamPool
from fcd.errors import ApiError, api_error_from_body
from fcd.wire.admin import LoadRequest

_PATH = "/v1/chat/completions"


class Asker(Protocol):
    def ask(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """OpenAI's chunks. Raises ApiError when there is no answer, or only a part of one."""
        ...

    async def close(self) -> None: ...


class RelayAsker:
    """The real one."""

    def __init__(self, context: DaemonContext, special: SpecialModels | None = None) -> None:
        self._context = context
        self._special = special
        self._pool = UpstreamPool()
        self._peers = Peers()

    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        model = await self._known(str(body["model"]))
        data = msgspec.json.encode({**body, "model": model, "stream": True, "stream_options": {"include_usage": True}})
        call = RoutedCall(model, True)
        if self._special is not None and self._special.takes(_PATH, model):
            if model != "best":
                raise ApiError(400, f"'{model}' answers no kept chat: a battle is fought on its own screen (F3).")
            call, data = await self._special.best(call, data)
        inbox = Inbox(f"chat-{secrets.token_hex(8)}")
        task = asyncio.get_running_loop().create_task(self._relay(inbox, Order(call.model, "POST", _PATH, data, True)))
        try:
            async with aclosing(inbox.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            task.cancel()
            await asyncio.wait((task,))

    async def close(self) -> None:
        self._pool.close()

    async def _relay(self, inbox: Inbox, order: Order) -> None:
        try:
            response = await Relay(self._context, self._pool, inbox, order, self._peers).run()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            inbox.refuse(ApiError(500, f"{type(error).__name__}: {error}", code="internal_error"))
            raise
        if response is not None:
            inbox.refuse(_refusal(response.status, response.body or b""))

    async def _known(self, model: str) -> str:
        """The name that requests use; a folder or a repo that nobody named yet is loaded first."""
        if not model:
            raise ApiError(400, "No model is chosen for this chat.", code="model_not_found", param="model")
        names = {known.name for known in self._context.controller.models()}
        load = getattr(self._context.controller, "load", None)
        if model in names or load is None or "/" not in model:
            return model
        async with aclosing(await load(LoadRequest(model))) as events:
            async for event in events:
                if event is not None and event.type == "error":
                    raise ApiError(503, event.error or f"{model} could not be loaded.", code="model_load_failed")
                if event is not None and event.type == "ready":
                    return str(event.model or model)
        return model


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        return api_error_from_body(status, msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError):
        return ApiError(status, body[:500].decode("utf-8", "replace"), code=f"http_{status}")
