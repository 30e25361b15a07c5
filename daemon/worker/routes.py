"""The worker's OpenAI routes and what probes ask."""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from daemon.http import json_response
from daemon.worker.chat import complete_chat, prepare_chat, stream_chat
from daemon.worker.completions import complete, prepare_completion, stream_completion
from daemon.worker.guard import over_unix_socket
from daemon.worker.pictures import chat_with_images
from daemon.worker.prompts import LONG_TEXT
from daemon.worker.sse import EventStream
from daemon.worker.state import Model, Worker
from daemon.worker.vectors import shorten, vectors_for
from fcd.errors import invalid, model_not_found
from fcd.wire.openai import (
    DetokenizeAnswer,
    TokenizeAnswer,
    parse_chat,
    parse_completion,
    parse_detokenize,
    parse_embedding,
    parse_tokenize,
)
from fcd.wire.openai_answers import Embedding, EmbeddingAnswer, EmbeddingUsage, ModelCard, ModelCards

AnyRequest = Request[Any, Any]
T = TypeVar("T")

_ROUTED = "x-fcd-model"
"""Set by a gateway that has already chosen this worker for whatever name the client used (an alias)."""


def openai_routes(worker: Worker) -> Blueprint:
    """All of them, on one blueprint."""
    routes = Blueprint("openai")

    @routes.post("/v1/chat/completions")
    async def chat(request: AnyRequest) -> HTTPResponse | None:
        worker.ready()
        asked = await _parse(parse_chat, request)
        _check_model(worker, request, asked.model)
        job = await prepare_chat(worker, worker.profiles.chat(asked))
        job.request = worker.profiles.capped(asked, job.request)
        if not asked.streams:
            return json_response(await complete_chat(worker, job))
        await EventStream(request, worker.comment_s).run(stream_chat(worker, job))
        return None

    @routes.post("/v1/completions")
    async def completions(request: AnyRequest) -> HTTPResponse | None:
        worker.ready()
        asked = await _parse(parse_completion, request)
        _check_model(worker, request, asked.model)
        job = await prepare_completion(worker, worker.profiles.completion(asked))
        if not asked.streams:
            return json_response(await complete(worker, job))
        await EventStream(request, worker.comment_s).run(stream_completion(worker, job))
        return None

    @routes.post("/v1/embeddings")
    async def embeddings(request: AnyRequest) -> HTTPResponse:
        model = worker.ready()
        asked = await _parse(parse_embedding, request)
        _check_model(worker, request, asked.model)
        vectors, tokens = await vectors_for(model, asked, worker.adapter(asked.model))
        if asked.dimensions is not None:
            vectors = shorten(vectors, asked.dimensions)
        data = [
            Embedding(index, _base64(vector) if asked.encoding_format == "base64" else vector)
            for index, vector in enumerate(vectors)
        ]
        return json_response(EmbeddingAnswer(data, asked.model, EmbeddingUsage(tokens, tokens)))

    @routes.get("/v1/models")
    async def models(request: AnyRequest) -> HTTPResponse:
        return json_response(ModelCards(_cards(worker)))

    @routes.get("/v1/models/<name:path>")
    async def model_card(request: AnyRequest, name: str) -> HTTPResponse:
        for card in _cards(worker):
            if card.id == name:
                return json_response(card)
        raise model_not_found(name, worker.names[:1])

    @routes.post("/tokenize")
    async def tokenize(request: AnyRequest) -> HTTPResponse:
        model = worker.ready()
        asked = await _parse(parse_tokenize, request)
        _check_model(worker, request, asked.model)
        if asked.messages is not None:
            generation = True if asked.add_generation_prompt is None else asked.add_generation_prompt
            if any(message.images for message in asked.messages):
                _, seen = await chat_with_images(
                    model,
                    asked.model or worker.names[0],
                    asked.messages,
                    asked.chat_template_kwargs,
                    specials=asked.add_special_tokens,
                    add_generation_prompt=generation,
                )
                ids = seen.ids
            else:
                ids = await model.prompter.chat_ids(
                    asked.messages,
                    asked.chat_template_kwargs,
                    specials=asked.add_special_tokens,
                    add_generation_prompt=generation,
                )
        else:
            specials = True if asked.add_special_tokens is None else asked.add_special_tokens
            ids = await model.prompter.text_ids(asked.prompt or "", specials=specials)
        strings = None
        if asked.return_token_strs:
            strings = [str(piece) for piece in model.prompter.tokenizer.convert_ids_to_tokens(ids)]
        return json_response(TokenizeAnswer(len(ids), model.engine.info.context_length, ids, strings))

    @routes.post("/detokenize")
    async def detokenize(request: AnyRequest) -> HTTPResponse:
        model = worker.ready()
        asked = await _parse(parse_detokenize, request)
        _check_model(worker, request, asked.model)
        size = model.engine.info.vocab_size
        for position, token in enumerate(asked.tokens):
            if token >= size:
                raise invalid(f"tokens[{position}]", f"Token {token} does not exist; this model has {size}.")
        text = await asyncio.to_thread(model.prompter.decode, asked.tokens)
        return json_response(DetokenizeAnswer(text))

    @routes.get("/tokenizer_info")
    async def tokenizer_info(request: AnyRequest) -> HTTPResponse:
        return json_response(_tokenizer_info(worker.ready()))

    return routes


async def _parse(parser: Callable[[bytes], T], request: AnyRequest) -> T:
    body = request.body
    return parser(body) if len(body) < 8 * LONG_TEXT else await asyncio.to_thread(parser, body)


def _check_model(worker: Worker, request: AnyRequest, name: str | None) -> None:
    """A stranger must name this model; the gateway, which chose this worker, may use an alias."""
    if name is None or name in worker.names:
        return
    if over_unix_socket(request) or worker.options.api_key or _ROUTED in request.headers:
        return
    raise model_not_found(name, worker.names[:1])


def _cards(worker: Worker) -> list[ModelCard]:
    model = worker.ready()
    created, length = int(worker.started_at), model.engine.info.context_length
    able = list(model.engine.info.capabilities)
    return [ModelCard(name, created, length, parent=worker.parent(name), capabilities=able) for name in worker.names]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _tokenizer_info(model: Model) -> dict[str, Any]:
    """vLLM's shape: the tokenizer's own settings, its class, and the chat template in use."""
    tokenizer = model.prompter.tokenizer
    specials = {
        name: getattr(tokenizer, name, None)
        for name in ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
    }
    template = model.prompter.template
    own = getattr(tokenizer, "chat_template", None)
    return {
        "tokenizer_class": type(tokenizer).__name__,
        **specials,
        "model_max_length": model.engine.info.context_length,
        "vocab_size": model.engine.info.vocab_size,
        "chat_template": own if template is None else None,
        "conv_template": template.name if template is not None else None,
    }
