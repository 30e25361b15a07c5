"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from daemon.engines.base import GenerationRequest, TokenLogprob
from daemon.worker.generation import (
    Collected,
    Tally,
    allowed_tokens,
    check_ids,
    finish_reason,
    generate,
    sampling_params,
    truncate,
)
from daemon.worker.state import Worker
from fcd.wire.openai import ChatRequest
from fcd.wire.openai_answers import DONE, AssistantMessage, ChatChoice, ChatCompletion, ChunkWriter


@dataclass
class ChatJob:
    """One request on its way: what the engine gets, and what the answer is written with."""

    asked: ChatRequest
    request: GenerationRequest
    tally: Tally
    created: int

    @property
    def id(self) -> str:
        return self.request.request_id


async def prepare_chat(worker: Worker, asked: ChatRequest) -> ChatJob:
    """Render, tokenise and check.

    Raises:
        ApiError: 400 for what the model cannot take, 503 while it is not loaded.
    """
    model = worker.ready()
    info = model.engine.info
    check_ids(asked, info)
    ids = await model.prompter.chat_ids(asked.messages, asked.chat_template_kwargs, specials=asked.add_special_tokens)
    ids = truncate(ids, asked.truncate_prompt_tokens, info, asked.limit or 1)
    params = sampling_params(
        asked,
        max_tokens=allowed_tokens(info, len(ids), asked.limit, param="messages"),
        logprobs=asked.top,
        prompt_logprobs=asked.prompt_logprobs,
        defaults=model.defaults,
        stops=model.prompter.stops,
    )
    request = GenerationRequest(f"chatcmpl-{uuid.uuid4().hex}", ids, params, n=asked.choices, best_of=asked.choices)
    return ChatJob(asked, request, Tally(len(ids)), int(time.time()))


async def complete_chat(worker: Worker, job: ChatJob) -> ChatCompletion:
    """The whole answer."""
    model = worker.ready()
    choices = [Collected() for _ in range(job.request.n)]
    async with aclosing(generate(worker, job.request)) as deltas:
        async for delta in deltas:
            job.tally.add(delta)
            choices[delta.index].add(delta)
    answer = ChatCompletion(
        id=job.id,
        created=job.created,
        model=job.asked.model,
        choices=[
            ChatChoice(
                index,
                AssistantMessage("assistant", choice.text),
                model.tokens.chat(choice.logprobs) if job.asked.logprobs else None,
                choice.finish_reason,
                choice.stop_reason,
            )
            for index, choice in enumerate(choices)
        ],
        usage=job.tally.usage(),
        system_fingerprint=worker.fingerprint,
    )
    if job.asked.prompt_logprobs is not None:
        answer.prompt_logprobs = model.tokens.prompt(_prompt_logprobs(choices))
    return answer


async def stream_chat(worker: Worker, job: ChatJob) -> AsyncGenerator[bytes, None]:
    """The answer's events. The first comes when the engine has begun, so that a refusal still has its status."""
    tokens = worker.ready().tokens
    write = ChunkWriter(
        "chat",
        id=job.id,
        created=job.created,
        model=job.asked.model,
        fingerprint=worker.fingerprint,
        with_usage=job.asked.wants_usage,
    )
    logprobs = bool(job.asked.logprobs)
    begun: set[int] = set()
    async with aclosing(generate(worker, job.request)) as deltas:
        async for delta in deltas:
            job.tally.add(delta)
            out = b""
            if delta.index not in begun:
                begun.add(delta.index)
                out = write.role(delta.index)
            if logprobs and delta.logprobs:
                out += write.text_with_logprobs(delta.index, delta.text, tokens.chat(delta.logprobs))
            elif delta.text:
                out += write.text(delta.index, delta.text)
            if delta.finish_reason is not None:
                out += write.finish(delta.index, finish_reason(delta), delta.stop_reason)
            if out:
                yield out
    yield (write.usage(job.tally.usage()) if job.asked.wants_usage else b"") + DONE


def _prompt_logprobs(choices: Sequence[Collected]) -> Sequence[TokenLogprob]:
    return next((choice.prompt_logprobs for choice in choices if choice.prompt_logprobs is not None), ())
