"""POST /v1/completions: one or many prompts as text or token ids, with echo and log-probabilities over both."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from daemon.engines.base import Delta, GenerationRequest, TokenLogprob
from daemon.worker.generation import (
    Collected,
    Tally,
    allowed_tokens,
    check_ids,
    check_writes,
    finish_reason,
    generate_all,
    sampling_params,
    truncate,
)
from daemon.worker.state import Model, Worker
from daemon.worker.tokens import Echo
from fcd.errors import invalid
from fcd.wire.openai import CompletionRequest, Prompt
from fcd.wire.openai_answers import DONE, ChunkWriter, Completion, CompletionChoice, CompletionLogprobs


@dataclass
class CompletionJob:
    """One request on its way. Choice `i` of prompt `p` has index `p * n + i`."""

    asked: CompletionRequest
    id: str
    created: int
    requests: list[GenerationRequest]
    echoes: list[Echo]
    """One for each prompt; empty ones without `echo`."""
    tally: Tally

    def index(self, prompt: int, choice: int) -> int:
        return prompt * self.asked.choices + choice


async def prepare_completion(worker: Worker, asked: CompletionRequest) -> CompletionJob:
    """Tokenise and check.

    Raises:
        ApiError: 400 for what the model cannot take, 503 while it is not loaded.
    """
    model = worker.ready()
    check_writes(model.engine.info)
    check_ids(asked, model.engine.info)
    if asked.echo and model.engine.info.is_encoder_decoder:
        raise invalid("echo", "'echo' needs a model whose answer continues the prompt; this is an encoder-decoder.")
    job_id, prompts = f"cmpl-{uuid.uuid4().hex}", asked.prompts
    single = len(prompts) == 1
    requests = [
        await _request(worker, asked, prompt, job_id if single else f"{job_id}-{position}", position, single)
        for position, prompt in enumerate(prompts)
    ]
    echoes = [Echo()] * len(prompts)
    if asked.echo:
        echoes = await asyncio.gather(
            *(_echo(model, asked, prompt, request) for prompt, request in zip(prompts, requests, strict=True))
        )
    total = sum(len(request.prompt_ids) for request in requests)
    return CompletionJob(asked, job_id, int(time.time()), requests, echoes, Tally(total))


async def _request(
    worker: Worker, asked: CompletionRequest, prompt: Prompt, request_id: str, position: int, single: bool
) -> GenerationRequest:
    model = worker.ready()
    info = model.engine.info
    default = worker.profiles.limit(asked.model) if asked.max_tokens is None else None
    limit = asked.limit if default is None else default
    param = "prompt" if single else f"prompt[{position}]"
    specials = True if asked.add_special_tokens is None else asked.add_special_tokens
    ids = await model.prompter.text_ids(prompt, specials=specials) if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise invalid(param, f"'{param}' has no tokens; this model has none that begins a text.")
    if max(ids) >= info.vocab_size:
        raise invalid(param, f"'{param}' holds token {max(ids)}; this model has {info.vocab_size}.")
    ids = truncate(ids, asked.truncate_prompt_tokens, info, limit)
    of_prompt = asked.prompt_logprobs
    if asked.echo and asked.logprobs is not None:
        of_prompt = max(asked.logprobs, of_prompt or 0)
    params = sampling_params(
        asked,
        max_tokens=allowed_tokens(info, len(ids), limit, param=param, strict=asked.max_tokens is not None),
        logprobs=asked.logprobs,
        prompt_logprobs=of_prompt,
        defaults=model.defaults,
    )
    adapter = worker.adapter(asked.model)
    return GenerationRequest(request_id, ids, params, n=asked.choices, best_of=asked.samples, adapter=adapter)


async def _echo(model: Model, asked: CompletionRequest, prompt: Prompt, request: GenerationRequest) -> Echo:
    whole = asked.truncate_prompt_tokens is None and isinstance(prompt, str)
    if whole and asked.logprobs is None:
        return Echo(str(prompt))
    decoded = await asyncio.to_thread(model.prompter.decode, request.prompt_ids)
    return Echo.of(str(prompt), decoded) if whole else Echo(decoded)


async def complete(worker: Worker, job: CompletionJob) -> Completion:
    """The whole answer."""
    model = worker.ready()
    choices = [Collected() for _ in range(len(job.requests) * job.asked.choices)]
    async with aclosing(generate_all(worker, job.requests)) as deltas:
        async for prompt, delta in deltas:
            job.tally.add(delta)
            choices[job.index(prompt, delta.index)].add(delta)
            if delta.prompt_logprobs is not None:
                for choice in range(job.asked.choices):
                    choices[job.index(prompt, choice)].prompt_logprobs = delta.prompt_logprobs
    return Completion(
        id=job.id,
        created=job.created,
        model=job.asked.model,
        choices=[_choice(model, job, index, choice) for index, choice in enumerate(choices)],
        usage=job.tally.usage(),
        system_fingerprint=worker.fingerprint,
    )


def _choice(model: Model, job: CompletionJob, index: int, found: Collected) -> CompletionChoice:
    asked = job.asked
    echo = job.echoes[index // asked.choices]
    logprobs: CompletionLogprobs | None = None
    if asked.logprobs is not None:
        prompt = _shown(found.prompt_logprobs, asked) if asked.echo else []
        places = [*echo.places(prompt), *echo.places_behind(found.logprobs, len(found.text))]
        logprobs = model.tokens.completion([*prompt, *found.logprobs], places)
    choice = CompletionChoice(
        index,
        echo.text + found.text,
        logprobs,
        found.finish_reason,
        found.stop_reason,
    )
    if asked.prompt_logprobs is not None:
        choice.prompt_logprobs = model.tokens.prompt(found.prompt_logprobs or ())
    return choice


def _shown(entries: tuple[TokenLogprob, ...] | None, asked: CompletionRequest) -> list[TokenLogprob]:
    """The prompt's entries with as many alternatives as `logprobs` asks for."""
    most = asked.logprobs or 0
    return [
        TokenLogprob(entry.token_id, entry.token, entry.logprob, tuple(entry.top[:most]), entry.begin)
        for entry in entries or ()
    ]


async def stream_completion(worker: Worker, job: CompletionJob) -> AsyncGenerator[bytes, None]:
    """The answer's events."""
    tokens = worker.ready().tokens
    asked = job.asked
    write = ChunkWriter(
        "completion",
        id=job.id,
        created=job.created,
        model=asked.model,
        fingerprint=worker.fingerprint,
        with_usage=asked.wants_usage,
    )
    shown: dict[int, int] = {}
    """By choice, the characters of its answer that were sent."""
    waiting: dict[int, list[TokenLogprob]] = {}
    echoed: dict[int, list[TokenLogprob]] = {}

    def begin(prompt: int, index: int) -> bytes:
        """What a choice starts with: the echo of its prompt."""
        shown[index] = 0
        if not asked.echo:
            return b""
        if asked.logprobs is None:
            return write.text(index, job.echoes[prompt].text)
        places = job.echoes[prompt].places(echoed.get(prompt, []))
        return write.text_with_logprobs(
            index, job.echoes[prompt].text, tokens.completion(echoed.get(prompt, []), places)
        )

    def logprobs(prompt: int, delta: Delta, index: int) -> CompletionLogprobs | None:
        """Of the tokens whose place is certain: what may become a stop string is not shown yet, and may never be."""
        entries = [*waiting.pop(index, ()), *delta.logprobs]
        known = [entry for entry in entries if delta.finish_reason is not None or entry.begin <= shown[index]]
        waiting[index] = entries[len(known) :]
        return tokens.completion(known, job.echoes[prompt].places_behind(known, shown[index])) if known else None

    def event(prompt: int, delta: Delta) -> bytes:
        index = job.index(prompt, delta.index)
        if delta.prompt_logprobs is not None:
            echoed[prompt] = _shown(delta.prompt_logprobs, asked)
        out = begin(prompt, index) if index not in shown else b""
        shown[index] += len(delta.text)
        if asked.logprobs is not None and (found := logprobs(prompt, delta, index)) is not None:
            out += write.text_with_logprobs(index, delta.text, found)
        elif delta.text:
            out += write.text(index, delta.text)
        if delta.finish_reason is not None:
            out += write.finish(index, finish_reason(delta), delta.stop_reason)
        return out

    async with aclosing(generate_all(worker, job.requests)) as deltas:
        async for prompt, delta in deltas:
            job.tally.add(delta)
            out = event(prompt, delta)
            if out:
                yield out
    yield (write.usage(job.tally.usage()) if asked.wants_usage else b"") + DONE
