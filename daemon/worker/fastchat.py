"""FastChat's worker routes over an engine of this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sanic import Blueprint

from daemon.engines.base import Delta, GenerationRequest, TokenLogprob
from daemon.worker.conversation import fastchat_conv
from daemon.worker.fastchat_params import FastChatParams, generation_request, read_params
from daemon.worker.fastchat_routes import encode_frame, routes_for
from daemon.worker.generation import generate
from daemon.worker.state import Worker
from daemon.worker.tokens import Echo
from fcd.wire.controller import WorkerStatus


def fastchat_routes(worker: Worker) -> Blueprint:
    """All of them."""
    return routes_for(_EngineBackend(worker), worker.comment_s)


class _EngineBackend:
    """See `daemon.worker.fastchat_routes.Backend`."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def status(self) -> WorkerStatus:
        self._worker.ready()
        return WorkerStatus(self._worker.names, 1, self._worker.queue_length)

    async def frames(self, body: dict[str, Any], *, whole: bool) -> AsyncGenerator[bytes, None]:
        params = read_params(body)
        request, prompt = await generation_request(self._worker, params)
        answer = _Cumulative(self._worker, params, request, await self._echo(params, request, prompt))
        async with aclosing(generate(self._worker, request)) as deltas:
            async for delta in deltas:
                answer.add(delta)
                if not whole and (delta.text or delta.finish_reason):
                    yield answer.frame(None)
        yield answer.frame(answer.finish_reason)

    async def _echo(self, params: FastChatParams, request: GenerationRequest, prompt: str) -> Echo:
        """What is given back of the prompt. Its tokens' text is wanted for places alone, and takes long to work out."""
        if not params.echo:
            return Echo()
        if request.params.prompt_logprobs is None:
            return Echo(prompt)
        decode = self._worker.ready().prompter.decode
        return await asyncio.to_thread(lambda: Echo.of(prompt, decode(request.prompt_ids)))

    async def embed(self, texts: list[str], name: str | None = None) -> tuple[list[list[float]], int]:
        """Inputs longer than the context are cut, as FastChat's --embed-in-truncate does."""
        model = self._worker.ready()
        limit = model.engine.info.context_length
        ids_of = [(await model.prompter.text_ids(text))[:limit] for text in texts]
        return await model.engine.embed(ids_of, self._worker.adapter(name)), sum(len(ids) for ids in ids_of)

    async def count(self, prompt: str) -> int:
        return len(await self._worker.ready().prompter.text_ids(prompt))

    def conversation(self) -> dict[str, Any]:
        return fastchat_conv(self._worker.ready().prompter)

    def context_length(self) -> int:
        return self._worker.ready().engine.info.context_length


class _Cumulative:
    """The answer so far."""

    def __init__(self, worker: Worker, params: FastChatParams, request: GenerationRequest, echo: Echo) -> None:
        self._tokens = worker.ready().tokens
        self._params = params
        self._echo = echo
        self._text = echo.text
        self._prompt_logprobs: list[TokenLogprob] = []
        self._prompt_tokens = len(request.prompt_ids)
        self._completion_tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self.finish_reason = "stop"

    def add(self, delta: Delta) -> None:
        self._text += delta.text
        self._completion_tokens += len(delta.token_ids)
        if delta.prompt_logprobs is not None and self._params.echo:
            self._prompt_logprobs.extend(delta.prompt_logprobs)
        self._logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    def frame(self, finish_reason: str | None) -> bytes:
        logprobs = None
        if self._params.logprobs is not None:
            shown = len(self._text) - len(self._echo.text)
            places = [*self._echo.places(self._prompt_logprobs), *self._echo.places_behind(self._logprobs, shown)]
            logprobs = self._tokens.completion([*self._prompt_logprobs, *self._logprobs], places)
        return encode_frame(self._text, self._prompt_tokens, self._completion_tokens, finish_reason, logprobs)
