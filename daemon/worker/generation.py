"""From a checked request to the engine and back: limits, sampling parameters, and the deltas of several prompts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from daemon.engines.base import Delta, EngineInfo, GenerationRequest, SamplingParams, TokenLogprob
from daemon.worker.defaults import SamplingDefaults
from daemon.worker.state import Worker
from fcd.errors import ApiError, invalid
from fcd.wire.openai import SamplingFields
from fcd.wire.openai_answers import FinishReason, Usage, usage_of

_DEAD = frozenset({"worker_died", "internal_error", "out_of_memory"})


def allowed_tokens(info: EngineInfo, prompt_tokens: int, asked: int | None, *, param: str, strict: bool = True) -> int:
    """How many tokens may follow a prompt. `asked` None takes the rest of the context; not `strict` cuts `asked` to it.

    Raises:
        ApiError: 400 `context_length_exceeded` with the numbers.
    """
    limit = info.context_length
    room = limit if info.is_encoder_decoder else limit - prompt_tokens
    least = 1 if asked is None else min(asked, 1)
    if prompt_tokens > limit or room < least:
        raise ApiError(
            400,
            f"This model's maximum context length is {limit} tokens, and the prompt alone has {prompt_tokens}. "
            "Shorten it.",
            code="context_length_exceeded",
            param=param,
        )
    if asked is None:
        return room
    if asked > room and strict:
        raise ApiError(
            400,
            f"This model's maximum context length is {limit} tokens. You asked for {prompt_tokens + asked} tokens: "
            f"{prompt_tokens} in the prompt and {asked} for the completion. Shorten either.",
            code="context_length_exceeded",
            param=param,
        )
    return min(asked, room)


def truncate(ids: list[int], keep: int | None, info: EngineInfo, reserve: int) -> list[int]:
    """The last `keep` ids; -1 keeps what the context holds besides `reserve` tokens of the completion."""
    if keep is None:
        return ids
    if keep == -1:
        keep = max(info.context_length - (0 if info.is_encoder_decoder else reserve), 1)
    return ids[-keep:]


def check_writes(info: EngineInfo) -> None:
    """Raises ApiError 400: the model makes embeddings alone."""
    if "completions" not in info.capabilities:
        raise ApiError(
            400,
            "This model makes embeddings and writes no text: use /v1/embeddings.",
            code="unsupported_model",
            param="model",
        )


def check_ids(request: SamplingFields, info: EngineInfo) -> None:
    """Token ids that the model does not have. Raises ApiError 400."""
    for name, ids in (("logit_bias", request.biases), ("stop_token_ids", request.stop_token_ids or ())):
        for token_id in ids:
            if token_id >= info.vocab_size:
                raise invalid(name, f"'{name}' names token {token_id}; this model has {info.vocab_size}.")


def sampling_params(
    request: SamplingFields,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    defaults: SamplingDefaults,
    stops: Sequence[str] = (),
) -> SamplingParams:
    """OpenAI's fields and vLLM's as the engine takes them. `stops` are the template's own, `defaults` the model's."""
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min(request.min_tokens or 0, max_tokens),
        temperature=_or(request.temperature, defaults.temperature),
        top_p=_or(request.top_p, defaults.top_p),
        top_k=max(defaults.top_k if request.top_k is None else request.top_k, 0),
        min_p=_or(request.min_p, defaults.min_p),
        repetition_penalty=_or(request.repetition_penalty, defaults.repetition_penalty),
        presence_penalty=_or(request.presence_penalty, 0.0),
        frequency_penalty=_or(request.frequency_penalty, 0.0),
        logit_bias=request.biases,
        seed=request.seed,
        stop=tuple(dict.fromkeys((*request.stops, *stops))),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        include_stop=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        skip_special_tokens=True if request.skip_special_tokens is None else request.skip_special_tokens,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


@dataclass
class Tally:
    """Counts for the usage of one HTTP request."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None
    """None where the model does not think."""

    def add(self, delta: Delta) -> None:
        self.completion_tokens += len(delta.token_ids)
        self.cached_tokens += delta.cached_tokens

    def usage(self) -> Usage:
        return usage_of(self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.reasoning_tokens)


@dataclass
class Collected:
    """One choice, whole."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason = "stop"
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, delta: Delta) -> None:
        self.pieces.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            self.finish_reason = finish_reason(delta)
            self.stop_reason = delta.stop_reason


def finish_reason(delta: Delta) -> FinishReason:
    """Raises ApiError when the engine gave the completion up."""
    if delta.finish_reason == "abort" or delta.finish_reason is None:
        why = f": {delta.stop_reason}" if delta.stop_reason else ""
        raise ApiError(503, f"The engine gave this completion up{why}.", code="aborted")
    return delta.finish_reason


async def generate(worker: Worker, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
    """The engine's deltas, counted. An engine that dies under them is reported to the program."""
    began = time.monotonic()
    first = True
    try:
        deltas_of = cast("AsyncGenerator[Delta, None]", worker.ready().engine.generate(request))
        async with aclosing(deltas_of) as deltas:
            async for delta in deltas:
                if first:
                    first = False
                    worker.metrics.first_token.observe(time.monotonic() - began)
                if delta.finish_reason is not None:
                    worker.metrics.finished[delta.finish_reason] += 1
                yield delta
    except ApiError as error:
        if error.status >= 500 and error.code in _DEAD and worker.on_dead_engine is not None:
            worker.on_dead_engine(error.message)
        raise
    finally:
        worker.metrics.latency.observe(time.monotonic() - began)


async def generate_all(
    worker: Worker, requests: Sequence[GenerationRequest]
) -> AsyncGenerator[tuple[int, Delta], None]:
    """The deltas of several prompts as they come, each with its prompt's position.

    No more prompts than the engine runs at once are handed to it, so one request cannot fill its queue.
    """
    if len(requests) == 1:
        async with aclosing(generate(worker, requests[0])) as deltas:
            async for delta in deltas:
                yield 0, delta
        return
    gate = asyncio.Semaphore(max(worker.ready().engine.info.parallel, 1))
    queue: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue(maxsize=64)

    async def pump(position: int) -> None:
        try:
            async with gate, aclosing(generate(worker, requests[position])) as deltas:
                async for delta in deltas:
                    await queue.put((position, delta))
            await queue.put((position, None))
        except Exception as error:
            await queue.put((position, error))

    tasks = [asyncio.create_task(pump(position)) for position in range(len(requests))]
    try:
        left = len(tasks)
        while left:
            position, item = await queue.get()
            if item is None:
                left -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield position, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
