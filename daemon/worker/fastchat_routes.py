"""FastChat's worker routes over whatever runs the model: its controller, API server and interface speak to these."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final, Protocol

import msgspec
from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import json_response
from daemon.worker.sse import EventStream
from fcd.errors import FASTCHAT_CODES, ApiError, invalid
from fcd.wire.controller import WorkerStatus

AnyRequest = Request[Any, Any]

TRAFFIC: Final = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
_MAX_INPUTS: Final = 2048
_encode = msgspec.json.Encoder().encode


class Backend(Protocol):
    """What runs the model. Each raises ApiError where it cannot."""

    def status(self) -> WorkerStatus: ...

    def frames(self, body: dict[str, Any], *, whole: bool) -> AsyncGenerator[bytes, None]:
        """Cumulative frames, the last of which is repeated with its finish reason. `whole`: only that is read."""
        ...

    async def embed(self, texts: list[str], name: str | None = None) -> tuple[list[list[float]], int]:
        """Vectors, and the tokens of the texts; `name` is the model that the request names."""
        ...

    async def count(self, prompt: str) -> int: ...

    def conversation(self) -> dict[str, Any]: ...

    def context_length(self) -> int: ...


def routes_for(backend: Backend, comment_s: float) -> Blueprint:
    """All of them. Failures are answered as FastChat does: status 200 and an `error_code`."""
    routes = Blueprint("fastchat")

    @routes.post("/worker_get_status")
    async def status(request: AnyRequest) -> HTTPResponse:
        return json_response(backend.status())

    @routes.post("/worker_generate_stream")
    async def stream(request: AnyRequest) -> None:
        # Readers split on NUL and pass over empty frames, which so can fill a silence.
        answer = EventStream(request, comment_s, comment=b"\0", content_type="application/octet-stream")
        await answer.run(_delimited(_frames(backend, request.body, whole=False)))

    @routes.post("/worker_generate")
    async def generate_whole(request: AnyRequest) -> HTTPResponse:
        last = b"{}"
        async with aclosing(_frames(backend, request.body, whole=True)) as frames:
            async for frame in frames:
                last = frame
        return HTTPResponse(last, content_type="application/json")

    @routes.post("/worker_get_embeddings")
    async def embeddings(request: AnyRequest) -> HTTPResponse:
        try:
            return json_response(await _embeddings(backend, json_object(request.body)))
        except ApiError as error:
            return json_response(error_answer(error))

    @routes.post("/count_token")
    async def count_token(request: AnyRequest) -> HTTPResponse:
        prompt = json_object(request.body).get("prompt")
        if not isinstance(prompt, str):
            raise invalid("prompt", "'prompt' must be a string.")
        return json_response({"count": await backend.count(prompt), "error_code": 0})

    @routes.post("/worker_get_conv_template")
    async def conv_template(request: AnyRequest) -> HTTPResponse:
        return json_response({"conv": backend.conversation()})

    @routes.post("/model_details")
    async def model_details(request: AnyRequest) -> HTTPResponse:
        return json_response({"context_length": backend.context_length()})

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


def encode_frame(
    text: str, prompt_tokens: int, completion_tokens: int, finish_reason: str | None, logprobs: Any = None
) -> bytes:
    """One frame: the answer so far."""
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return _encode(
        {"text": text, "error_code": 0, "usage": usage, "finish_reason": finish_reason, "logprobs": logprobs}
    )


async def _frames(backend: Backend, body: bytes, *, whole: bool) -> AsyncGenerator[bytes, None]:
    """The backend's frames; an error is a frame and the end."""
    try:
        async with aclosing(backend.frames(json_object(body), whole=whole)) as frames:
            async for frame in frames:
                yield frame
    except ApiError as error:
        yield _encode(error_answer(error))


async def _delimited(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(frames):
        async for frame in frames:
            yield frame + b"\0"


async def _embeddings(backend: Backend, body: dict[str, Any]) -> dict[str, Any]:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise invalid("input", "'input' must be a list of strings.")
    if len(texts) > _MAX_INPUTS:
        raise ApiError(400, f"'input' may hold {_MAX_INPUTS} strings.", param="input", code="out_of_range")
    name = body.get("model")
    vectors, tokens = await backend.embed(texts, name if isinstance(name, str) else None)
    encoded: list[Any] = vectors
    if body.get("encoding_format") == "base64":
        encoded = await asyncio.to_thread(
            lambda: [base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode() for row in vectors]
        )
    return {"embedding": encoded, "token_num": tokens}
