"""FastChat's worker routes over a server that speaks OpenAI's."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import json_response
from daemon.worker.command.server import CommandServer
from daemon.worker.fastchat import error_answer, json_object
from daemon.worker.fastchat_params import FastChatParams, read_params
from daemon.worker.sse import EventStream
from daemon.worker.state import Worker
from fcd.errors import ApiError, invalid
from fcd.templates import ConvTemplate
from fcd.wire.controller import WorkerStatus

AnyRequest = Request[Any, Any]

_GREEDY = 1e-5


class Serving:
    """The server once it answers, and how many of FastChat's clients it answers through here."""

    def __init__(self, worker: Worker, template: ConvTemplate) -> None:
        self.worker = worker
        self.template = template
        self.server: CommandServer | None = None
        self.running = 0

    def ready(self) -> CommandServer:
        """Raises ApiError 503 while it is not."""
        if self.server is None or self.worker.status != "ok":
            raise ApiError(503, f"The command's server is {self.worker.status}.", code="model_loading", retry_after=2)
        return self.server


def command_routes(serving: Serving) -> Blueprint:
    """All of them; failures are answered as FastChat does."""
    routes = Blueprint("fastchat")
    worker = serving.worker

    @routes.post("/worker_get_status")
    async def status(request: AnyRequest) -> HTTPResponse:
        serving.ready()
        return json_response(WorkerStatus(worker.names, 1, serving.running))

    @routes.post("/worker_generate_stream")
    async def stream(request: AnyRequest) -> None:
        answer = EventStream(request, worker.comment_s, comment=b"\0", content_type="application/octet-stream")
        await answer.run(_delimited(_frames(serving, request.body)))

    @routes.post("/worker_generate")
    async def whole(request: AnyRequest) -> HTTPResponse:
        last = b"{}"
        async with aclosing(_frames(serving, request.body)) as frames:
            async for frame in frames:
                last = frame
        return HTTPResponse(last, content_type="application/json")

    @routes.post("/worker_get_embeddings")
    async def embeddings(request: AnyRequest) -> HTTPResponse:
        try:
            return json_response(await _embeddings(serving, json_object(request.body)))
        except ApiError as error:
            return json_response(error_answer(error))

    @routes.post("/count_token")
    async def count_token(request: AnyRequest) -> HTTPResponse:
        prompt = json_object(request.body).get("prompt")
        if not isinstance(prompt, str):
            raise invalid("prompt", "'prompt' must be a string.")
        return json_response({"count": await serving.ready().count(prompt), "error_code": 0})

    @routes.post("/worker_get_conv_template")
    async def conv_template(request: AnyRequest) -> HTTPResponse:
        return json_response({"conv": serving.template.as_fastchat()})

    @routes.post("/model_details")
    async def model_details(request: AnyRequest) -> HTTPResponse:
        return json_response({"context_length": serving.ready().context})

    return routes


async def _delimited(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(frames):
        async for frame in frames:
            yield frame + b"\0"


async def _frames(serving: Serving, body: bytes) -> AsyncGenerator[bytes, None]:
    """Cumulative frames, the last repeated with its finish reason; an error is a frame and the end."""
    serving.running += 1
    try:
        params = read_params(json_object(body))
        server = serving.ready()
        text, reason, tokens = params.prompt if params.echo else "", "stop", 0
        prompt_tokens = 0
        async with aclosing(server.complete(_completion(params))) as chunks:
            async for chunk in chunks:
                usage = chunk.get("usage") or {}
                prompt_tokens = int(usage.get("prompt_tokens") or prompt_tokens)
                tokens = int(usage.get("completion_tokens") or tokens)
                for choice in chunk.get("choices") or ():
                    reason = choice.get("finish_reason") or reason
                    if choice.get("text"):
                        text += choice["text"]
                        tokens += not usage
                        yield _frame(text, prompt_tokens, tokens, None)
        yield _frame(text, prompt_tokens, tokens, None)
        yield _frame(text, prompt_tokens, tokens, reason)
    except ApiError as error:
        yield msgspec.json.encode(error_answer(error))
    finally:
        serving.running -= 1


def _frame(text: str, prompt_tokens: int, tokens: int, reason: str | None) -> bytes:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    return msgspec.json.encode(
        {"text": text, "error_code": 0, "usage": usage, "finish_reason": reason, "logprobs": None}
    )


def _completion(params: FastChatParams) -> dict[str, Any]:
    """OpenAI's request for FastChat's parameters. Beyond OpenAI's own fields, only what was asked for is sent."""
    if params.logprobs is not None:
        raise invalid("logprobs", "'logprobs' cannot be had from a command's server in FastChat's frames.")
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


async def _embeddings(serving: Serving, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise invalid("input", "'input' must be a list of strings.")
    vectors, tokens = await serving.ready().embed(texts)
    encoded: list[Any] = vectors
    if body.get("encoding_format") == "base64":
        encoded = [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in vectors]
    return {"embedding": encoded, "token_num": tokens}
