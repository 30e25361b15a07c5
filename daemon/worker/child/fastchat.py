"""FastChat's worker routes over a server that speaks OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sanic import Blueprint

from daemon.worker.child.server import ChildServer
from daemon.worker.fastchat_params import FastChatParams, read_params
from daemon.worker.fastchat_routes import encode_frame, routes_for
from daemon.worker.state import Worker
from fcd.errors import invalid
from fcd.templates import ConvTemplate
from fcd.wire.controller import WorkerStatus

_GREEDY = 1e-5


class Serving:
    """The server once it answers, and how many of FastChat's clients it answers through here.

    Args:
        template: what FastChat's clients render a conversation with.
    """

    def __init__(self, worker: Worker, template: ConvTemplate) -> None:
        self.worker = worker
        self.template = template
        self.server: ChildServer | None = None
        self.running = 0

    def ready(self) -> ChildServer:
        """Raises ApiError 503 while it is not."""
        if self.server is None or self.worker.status != "ok":
            raise self.worker.not_ready()
        return self.server


def fastchat_routes(serving: Serving) -> Blueprint:
    """All of them."""
    return routes_for(_ServerBackend(serving), serving.worker.comment_s)


class _ServerBackend:
    """See `daemon.worker.fastchat_routes.Backend`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._worker = serving.worker

    def status(self) -> WorkerStatus:
        self._serving.ready()
        return WorkerStatus(self._worker.names, 1, max(self._serving.running, self._worker.queue_length))

    async def frames(self, body: dict[str, Any], *, whole: bool) -> AsyncGenerator[bytes, None]:
        self._serving.running += 1
        try:
            async with aclosing(_frames(self._serving.ready(), read_params(body), self._model(body))) as frames:
                async for frame in frames:
                    yield frame
        finally:
            self._serving.running -= 1

    async def embed(self, texts: list[str], name: str | None = None) -> tuple[list[list[float]], int]:
        return await self._serving.ready().embed(texts)

    async def count(self, prompt: str) -> int:
        return await self._serving.ready().count(prompt)

    def conversation(self) -> dict[str, Any]:
        return self._serving.template.as_fastchat()

    def context_length(self) -> int:
        return self._serving.ready().context

    def _model(self, body: dict[str, Any]) -> str:
        """Which of the server's models is meant; FastChat's clients may name none."""
        server, named = self._serving.ready(), body.get("model")
        return named if isinstance(named, str) and named in server.models else server.model


async def _frames(server: ChildServer, params: FastChatParams, model: str) -> AsyncGenerator[bytes, None]:
    text, reason, tokens = params.prompt if params.echo else "", "stop", 0
    prompt_tokens = 0
    async with aclosing(server.complete({"model": model, **_completion(params)})) as chunks:
        async for chunk in chunks:
            usage = chunk.get("usage") or {}
            prompt_tokens = int(usage.get("prompt_tokens") or prompt_tokens)
            tokens = int(usage.get("completion_tokens") or tokens)
            for choice in chunk.get("choices") or ():
                reason = choice.get("finish_reason") or reason
                if choice.get("text"):
                    text += choice["text"]
                    tokens += not usage
                    yield encode_frame(text, prompt_tokens, tokens, None)
    yield encode_frame(text, prompt_tokens, tokens, None)
    yield encode_frame(text, prompt_tokens, tokens, reason)


def _completion(params: FastChatParams) -> dict[str, Any]:
    """OpenAI's request for FastChat's parameters. Beyond OpenAI's own fields, only what was asked for is sent."""
    if params.images:
        raise invalid("images", "'images' cannot be put to this server in FastChat's frames: use /v1/chat/completions.")
    if params.logprobs is not None:
        raise invalid("logprobs", "'logprobs' cannot be had from a server in FastChat's frames.")
    body: dict[str, Any] = {
        "prompt": params.prompt,
        "max_tokens": params.max_new_tokens,
        "temperature": 0.0 if params.temperature < _GREEDY else params.temperature,
        "top_p": params.top_p if params.top_p > 0 else 1.0,
        "stream_options": {"include_usage": True},
    }
    if params.top_p <= 0:
        body["temperature"] = 0.0
    asked = {
        "top_k": params.top_k if params.top_k > 0 else None,
        "repetition_penalty": params.repetition_penalty if params.repetition_penalty > 1 else None,
        "presence_penalty": params.presence_penalty or None,
        "frequency_penalty": params.frequency_penalty or None,
        "seed": params.seed,
        "stop": list(params.stop) or None,
        "stop_token_ids": list(params.stop_token_ids) or None,
    }
    return body | {name: value for name, value in asked.items() if value is not None}
