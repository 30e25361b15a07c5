"""Asks a model for an answer as any client of the OpenAI route does.

So every kind of worker is reached, and waiting, loading and failing over are the gateway's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from daemon.context import DaemonContext
from fcd.client import Address, Client
from fcd.errors import ApiError, NotRunning
from fcd.wire.arena import Sampling


class Piece(msgspec.Struct, frozen=True):
    """A part of an answer, or (with `finish_reason` or counts) what is known at its end."""

    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Asker(Protocol):
    def ask(self, model: str, messages: list[dict[str, Any]], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        """Raises ApiError when there is no answer, or only a part of one."""
        ...

    async def count(self, model: str, text: str) -> int:
        """How many tokens of this model a text is. Raises ApiError or NotRunning."""
        ...


class GatewayAsker:
    """Through the daemon's own address, with the owner's token."""

    def __init__(self, context: DaemonContext) -> None:
        self._context = context
        self._client: Client | None = None

    async def ask(self, model: str, messages: list[dict[str, Any]], sampling: Sampling) -> AsyncGenerator[Piece, None]:
        body = {"model": model, "messages": messages, **_fields(sampling), "stream_options": {"include_usage": True}}
        try:
            async with aclosing(self._connected().chat(body)) as chunks:
                async for chunk in chunks:
                    if (piece := _piece(chunk)) is not None:
                        yield piece
        except NotRunning as error:
            raise ApiError(502, f"The answer broke off: {error.message}", code="worker_died") from error

    async def count(self, model: str, text: str) -> int:
        if self._context.draining:
            raise ApiError(503, "The daemon is shutting down.", code="shutting_down")
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return int((await self._connected().json("POST", "/tokenize", body))["count"])

    def _connected(self) -> Client:
        if self._client is None:
            self._client = Client(Address(self._context.url, self._context.security.owner_token))
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def _fields(sampling: Sampling) -> dict[str, Any]:
    fields = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    return fields if sampling.seed is None else {**fields, "seed": sampling.seed}


def _piece(chunk: dict[str, Any]) -> Piece | None:
    usage = chunk.get("usage") or {}
    choice = (chunk.get("choices") or [{}])[0]
    text = (choice.get("delta") or {}).get("content") or ""
    finish = choice.get("finish_reason") or ""
    if not (text or finish or usage):
        return None
    return Piece(text, finish, usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
