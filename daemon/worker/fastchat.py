"""FastChat's worker routes: what its controller, API server, web interface and test_message speak to."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.engines.base import Delta, GenerationRequest, TokenLogprob
from daemon.http import json_response
from daemon.worker.conversation import fastchat_conv
from daemon.worker.fastchat_params import FastChatParams, generation_request, read_params
from daemon.worker.generation import generate
from daemon.worker.sse import EventStream
from daemon.worker.state import Worker
from fcd.errors import FASTCHAT_CODES, ApiError
from fcd.wire.controller import WorkerStatus

AnyRequest = Request[Any, Any]

TRAFFIC: Final = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
_MAX_INPUTS: Final = 2048
_encode = msgspec.json.Encoder().encode


def fastchat_routes(worker: Worker) -> Blueprint:
    """All of them. Failures are answered as FastChat does: status 200 and an `error_code`."""
    routes = Blueprint("fastchat")

    @routes.post("/worker_get_status")
    async def status(request: AnyRequest) -> HTTPResponse:
        worker.ready()
        return json_response(WorkerStatus(worker.names, 1, worker.queue_length))

    @routes.post("/worker_generate_stream")
    async def stream(request: AnyRequest) -> None:
        # Readers split on NUL and pass over empty frames, which so can fill a silence.
        answer = EventStream(request, worker.comment_s, comment=b"\0", content_type="application/octet-stream")
        await answer.run(_delimited(_frames(worker, request.body)))

    @routes.post("/worker_generate")
    async def generate_whole(request: AnyRequest) -> HTTPResponse:
        last = b"{}"
        frames = _frames(worker, request.body, whole=True)
        async with aclosing(frames):
            async for frame in frames:
                last = frame
        return HTTPResponse(last, content_type="application/json")

    @routes.post("/worker_get_embeddings")
    async def embeddings(request: AnyRequest) -> HTTPResponse:
        try:
            return json_response(await _embeddings(worker, json_object(request.body)))
        except ApiError as error:
            return json_response(error_answer(error))

    @routes.post("/count_token")
    async def count_token(request: AnyRequest) -> HTTPResponse:
        prompter = worker.ready().prompter
        prompt = json_object(request.body).get("prompt")
        if not isinstance(prompt, str):
            raise ApiError(400, "'prompt' must be a string.", param="prompt")
        ids = await prompter.text_ids(prompt)
        return json_response({"count": len(ids), "error_code": 0})

    @routes.post("/worker_get_conv_template")
    async def conv_template(request: AnyRequest) -> HTTPResponse:
        return json_response({"conv": fastchat_conv(worker.ready().prompter)})

    @routes.post("/model_details")
    async def model_details(request: AnyRequest) -> HTTPResponse:
        return json_response({"context_length": worker.ready().engine.info.context_length})

    return routes


def json_object(body: bytes) -> dict[str, Any]:
    """A request's body. Raises ApiError 400."""
    try:
        decoded = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(decoded, dict):
        raise ApiError(400, "The request body must be a JSON object.", code="invalid_json")
    return decoded


def error_answer(error: ApiError) -> dict[str, Any]:
    """An error as FastChat's workers answer it, with status 200."""
    code = FASTCHAT_CODES.get(error.code, 50001 if error.status >= 500 else 40001)
    return {"text": f"{TRAFFIC}\n\n({error.message})", "error_code": code}


async def _delimited(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(frames):
        async for frame in frames:
            yield frame + b"\0"


async def _frames(worker: Worker, body: bytes, *, whole: bool = False) -> AsyncGenerator[bytes, None]:
    """Cumulative frames, the last of which is repeated with its finish reason; an error is a frame and the end."""
    try:
        params = read_params(json_object(body))
        request, prompt = await generation_request(worker, params)
        answer = _Cumulative(worker, params, request, prompt)
        async with aclosing(generate(worker, request)) as deltas:
            async for delta in deltas:
                answer.add(delta)
                if not whole and (delta.text or delta.finish_reason):
                    yield answer.frame(None)
        yield answer.frame(answer.finish_reason)
    except ApiError as error:
        yield _encode(error_answer(error))


class _Cumulative:
    """The answer so far."""

    def __init__(self, worker: Worker, params: FastChatParams, request: GenerationRequest, prompt: str) -> None:
        self._tokens = worker.ready().tokens
        self._params = params
        self._text = prompt if params.echo else ""
        self._prompt_tokens = len(request.prompt_ids)
        self._completion_tokens = 0
        self._logprobs: list[TokenLogprob] = []
        self.finish_reason = "stop"

    def add(self, delta: Delta) -> None:
        self._text += delta.text
        self._completion_tokens += len(delta.token_ids)
        if delta.prompt_logprobs is not None and self._params.echo:
            self._logprobs.extend(delta.prompt_logprobs)
        self._logprobs.extend(delta.logprobs)
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason

    def frame(self, finish_reason: str | None) -> bytes:
        logprobs = None
        if self._params.logprobs is not None:
            logprobs = self._tokens.completion(self._logprobs, 0)
        return _encode(
            {
                "text": self._text,
                "error_code": 0,
                "usage": {
                    "prompt_tokens": self._prompt_tokens,
                    "completion_tokens": self._completion_tokens,
                    "total_tokens": self._prompt_tokens + self._completion_tokens,
                },
                "finish_reason": finish_reason,
                "logprobs": logprobs,
            }
        )


async def _embeddings(worker: Worker, body: dict[str, Any]) -> dict[str, Any]:
    """Inputs longer than the context are cut, as FastChat's --embed-in-truncate does."""
    model = worker.ready()
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "'input' must be a list of strings.", param="input")
    if len(texts) > _MAX_INPUTS:
        raise ApiError(400, f"'input' may hold {_MAX_INPUTS} strings.", param="input", code="out_of_range")
    limit = model.engine.info.context_length
    ids_of = [(await model.prompter.text_ids(text))[:limit] for text in texts]
    vectors = await model.engine.embed(ids_of)
    encoded: list[Any] = vectors
    if body.get("encoding_format") == "base64":
        encoded = await asyncio.to_thread(
            lambda: [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in vectors]
        )
    return {"embedding": encoded, "token_num": sum(len(ids) for ids in ids_of)}
