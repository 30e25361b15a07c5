"""One OpenAI request for a worker that speaks FastChat's wire: checked, asked, and answered in OpenAI's objects."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Literal

from daemon.dispatch import Target
from daemon.gateway.fastchat.generation import Job, Limits, Piece, generate_all
from daemon.gateway.fastchat.peer import Facts, Peer, Peers
from daemon.gateway.fastchat.request import (
    check_chat,
    check_completion,
    check_embedding,
    images_of,
    sampling_of,
    turns_of,
)
from daemon.gateway.fastchat.text import Token
from fcd.errors import ApiError
from fcd.wire.openai import ChatRequest, CompletionRequest, parse_chat, parse_completion, parse_embedding
from fcd.wire.openai_answers import (
    DONE,
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprob,
    ChatLogprobs,
    ChunkWriter,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Embedding,
    EmbeddingAnswer,
    EmbeddingUsage,
    TopLogprob,
    Usage,
    usage_of,
)

_FINGERPRINT = "fastchat"
_EMBEDDINGS_AT_ONCE = 4
"""FastChat's own servers send as many in one call: the worker answers nothing else meanwhile."""
_UNCOUNTED_TOKENS = 1024
"""The limit on an answer when neither the request nor the worker gives one."""

Kind = Literal["chat", "completion"]


class Translation:
    """One chat or completion."""

    def __init__(self, peers: Peers, target: Target, *, model: str, limits: Limits) -> None:
        self._sees = target.images == "takes"
        self._peer = Peer(peers, target, target.names.get(model, model))
        self._limits = limits
        self._id = ""
        self._created = int(time.time())
        self._asked: ChatRequest | CompletionRequest
        self._jobs: list[Job] = []
        self._echoes: list[str] = []

    async def prepare(self, kind: Kind, body: bytes) -> None:
        """Check the request and render its prompts.

        Raises:
            ApiError: 400 for what a FastChat worker cannot do or the model cannot hold.
            UpstreamLost: the worker does not answer.
        """
        if kind == "chat":
            await self._prepare_chat(parse_chat(body))
        else:
            await self._prepare_completion(parse_completion(body))

    async def _prepare_chat(self, asked: ChatRequest) -> None:
        check_chat(asked, sees=self._sees)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._asked = asked
        facts = await self._peer.facts()
        if facts.conversation is None:
            raise ApiError(
                501,
                f"Chats cannot be put to this model's FastChat worker: {facts.problem}. Use /v1/completions.",
                code="unsupported",
            )
        conv = facts.conversation
        prompt = conv.prompt(turns_of(asked.messages))
        params = sampling_of(asked)
        params["stop_token_ids"] = [*params["stop_token_ids"], *conv.stop_ids]
        params |= {"prompt": prompt, "max_new_tokens": await self._room(facts, prompt, asked.limit, "messages")}
        if images := images_of(asked.messages):
            params["images"] = images
        stops = tuple(dict.fromkeys((*asked.stops, *conv.stops)))
        self._jobs = [Job(index, 0, params, stops, bool(asked.logprobs)) for index in range(asked.choices)]
        self._echoes = [""]

    async def _prepare_completion(self, asked: CompletionRequest) -> None:
        check_completion(asked)
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._asked = asked
        facts = await self._peer.facts()
        prompts = [str(prompt) for prompt in asked.prompts]
        self._echoes = [prompt if asked.echo else "" for prompt in prompts]
        for position, prompt in enumerate(prompts):
            param = "prompt" if len(prompts) == 1 else f"prompt[{position}]"
            params = sampling_of(asked) | {"prompt": prompt}
            params["max_new_tokens"] = await self._room(facts, prompt, asked.limit, param, asked.max_tokens is not None)
            for choice in range(asked.choices):
                index = position * asked.choices + choice
                self._jobs.append(Job(index, position, params, asked.stops, asked.logprobs is not None))

    async def _room(self, facts: Facts, prompt: str, asked: int | None, param: str, strict: bool = True) -> int:
        """How many tokens may follow the prompt. The worker keeps one of its context for itself, and cuts prompts that
        do not fit: so what does not fit is refused here."""
        count = await self._peer.count(prompt) if facts.context_length else 0
        if not count:
            return asked or min(_UNCOUNTED_TOKENS, facts.context_length // 2 or _UNCOUNTED_TOKENS)
        room = facts.context_length - count - 1
        if room < 1 or (strict and asked is not None and asked > room):
            wanted = f", and {asked} are asked for" if asked else ""
            raise ApiError(
                400,
                f"This model's maximum context length is {facts.context_length} tokens, the prompt has {count}"
                f"{wanted}; {max(room, 0)} may follow it. Shorten either.",
                code="context_length_exceeded",
                param=param,
            )
        return room if asked is None else min(asked, room)

    async def whole(self) -> ChatCompletion | Completion:
        """The whole answer.

        Raises:
            ApiError: the worker failed.
            UpstreamLost: it broke off.
        """
        texts = [""] * len(self._jobs)
        tokens: list[list[Token]] = [[] for _ in self._jobs]
        ends: list[Piece | None] = [None] * len(self._jobs)
        async with aclosing(generate_all(self._peer, self._jobs, self._limits)) as pieces:
            async for piece in pieces:
                texts[piece.index] += piece.text
                tokens[piece.index] += piece.tokens
                if piece.finish_reason is not None:
                    ends[piece.index] = piece
        last = [end for end in ends if end is not None]
        usage = _usage(last)
        if isinstance(self._asked, ChatRequest):
            chat = [self._chat_choice(end, texts[end.index], tokens[end.index]) for end in last]
            return ChatCompletion(self._id, self._created, self._asked.model, chat, usage, _FINGERPRINT)
        choices = [self._choice(end, texts[end.index], tokens[end.index]) for end in last]
        return Completion(self._id, self._created, self._asked.model, choices, usage, _FINGERPRINT)

    def _chat_choice(self, end: Piece, text: str, tokens: list[Token]) -> ChatChoice:
        assert end.finish_reason is not None
        logprobs = self._chat_logprobs(tokens) if self._asked.logprobs else None
        message = AssistantMessage("assistant", text)
        return ChatChoice(end.index, message, logprobs, end.finish_reason, end.stop_reason)

    def _choice(self, end: Piece, text: str, tokens: list[Token]) -> CompletionChoice:
        assert end.finish_reason is not None
        logprobs = _completion_logprobs(tokens, 0) if self._asked.logprobs is not None else None
        echoed = self._echoes[end.prompt_index] + text
        return CompletionChoice(end.index, echoed, logprobs, end.finish_reason, end.stop_reason)

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer's events, `[DONE]` last. Raises as `whole` does."""
        chat = isinstance(self._asked, ChatRequest)
        write = ChunkWriter(
            "chat" if chat else "completion",
            id=self._id,
            created=self._created,
            model=self._asked.model,
            fingerprint=_FINGERPRINT,
            with_usage=self._asked.wants_usage,
        )
        offsets: dict[int, int] = {}
        ends: list[Piece] = []
        async with aclosing(generate_all(self._peer, self._jobs, self._limits)) as pieces:
            async for piece in pieces:
                out = b""
                if piece.index not in offsets:
                    offsets[piece.index] = 0
                    out = write.role(piece.index) if chat else self._echo(write, piece)
                out += self._text(write, piece, offsets)
                if piece.finish_reason is not None:
                    ends.append(piece)
                    out += write.finish(piece.index, piece.finish_reason, piece.stop_reason)
                yield out
        yield (write.usage(_usage(ends)) if self._asked.wants_usage else b"") + DONE

    def _echo(self, write: ChunkWriter, piece: Piece) -> bytes:
        echo = self._echoes[piece.prompt_index]
        return write.text(piece.index, echo) if echo else b""

    def _text(self, write: ChunkWriter, piece: Piece, offsets: dict[int, int]) -> bytes:
        if piece.tokens:
            logprobs: ChatLogprobs | CompletionLogprobs
            if isinstance(self._asked, ChatRequest):
                logprobs = self._chat_logprobs(piece.tokens)
            else:
                logprobs = _completion_logprobs(piece.tokens, offsets[piece.index])
                offsets[piece.index] += sum(len(token.text) for token in piece.tokens)
            return write.text_with_logprobs(piece.index, piece.text, logprobs)
        return write.text(piece.index, piece.text) if piece.text else b""

    def _chat_logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs:
        asked = self._asked
        top = asked.top_logprobs if isinstance(asked, ChatRequest) else 0
        entries = []
        for token in tokens:
            data = _bytes_of(token)
            # Only a greedy request may ask for one: the chosen token is the likeliest then.
            alternatives = [TopLogprob(token.text, token.logprob, data)] if top else []
            entries.append(ChatLogprob(token.text, token.logprob, data, alternatives))
        return ChatLogprobs(entries)


def _bytes_of(token: Token) -> list[int] | None:
    """FastChat decodes tokens one by one: of one that is part of a character it does not tell the bytes."""
    return None if "\ufffd" in token.text else list(token.text.encode())


def _completion_logprobs(tokens: Sequence[Token], offset: int) -> CompletionLogprobs:
    found = CompletionLogprobs([], [], [], [])
    for token in tokens:
        found.text_offset.append(offset)
        offset += len(token.text)
        found.tokens.append(token.text)
        found.token_logprobs.append(token.logprob)
        found.top_logprobs.append({token.text: token.logprob})
    return found


def _usage(ends: Sequence[Piece]) -> Usage:
    """Each prompt counts once, however many choices it has."""
    prompts = {end.prompt_index: end.prompt_tokens for end in ends}
    return usage_of(sum(prompts.values()), sum(end.completion_tokens for end in ends))


async def embed(peers: Peers, target: Target, model: str, body: bytes, *, limit_s: float) -> EmbeddingAnswer:
    """POST /v1/embeddings.

    Raises:
        ApiError: 400 for what a FastChat worker cannot do.
        UpstreamLost: the worker does not answer.
    """
    asked = parse_embedding(body)
    check_embedding(asked)
    peer = Peer(peers, target, target.names.get(model, model))
    texts = [str(text) for text in asked.inputs]
    vectors: list[list[float]] = []
    tokens = 0
    for start in range(0, len(texts), _EMBEDDINGS_AT_ONCE):
        found, count = await peer.embed(texts[start : start + _EMBEDDINGS_AT_ONCE], limit_s=limit_s)
        vectors += found
        tokens += count
    as_base64 = asked.encoding_format == "base64"
    encoded: list[Any] = await asyncio.to_thread(_base64, vectors) if as_base64 else vectors
    data = [Embedding(index, vector) for index, vector in enumerate(encoded)]
    return EmbeddingAnswer(data, asked.model, EmbeddingUsage(tokens, tokens))


def _base64(vectors: list[list[float]]) -> list[str]:
    return [base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() for vector in vectors]
