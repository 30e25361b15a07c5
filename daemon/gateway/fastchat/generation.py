"""Several generations of one request, run side by side on a FastChat worker, as pieces of text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from daemon.gateway.fastchat.peer import Peer
from daemon.gateway.fastchat.text import CumulativeText, Token, tokens_of
from daemon.gateway.upstream import UpstreamLost
from fcd.errors import ApiError
from fcd.wire.openai_answers import FinishReason

_AT_ONCE = 4
"""FastChat's workers run five requests at once by default, and leave the others without a byte."""
_PIECES_HELD = 64


class Limits(msgspec.Struct, frozen=True):
    first_byte_s: float
    stall_s: float


class Job(msgspec.Struct, frozen=True):
    """One generation: the choice `index` of the answer."""

    index: int
    prompt_index: int
    params: dict[str, Any]
    stops: tuple[str, ...] = ()
    logprobs: bool = False

    @property
    def max_tokens(self) -> int:
        return int(self.params["max_new_tokens"])


class Piece(msgspec.Struct, frozen=True):
    """What one frame brought."""

    index: int
    prompt_index: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | None = None
    prompt_tokens: int = 0
    """So far, as the worker says; valid in the last piece."""
    completion_tokens: int = 0


async def generate(peer: Peer, job: Job, limits: Limits) -> AsyncGenerator[Piece, None]:
    """The pieces of one generation; the last has a finish reason.

    Raises:
        ApiError: the worker refused or failed.
        UpstreamLost: it broke off.
    """
    text, seen, last = CumulativeText(job.stops), 0, None
    pending: list[Token] = []
    frames = peer.frames(
        {**job.params, "stop": list(job.stops), "logprobs": 0 if job.logprobs else None},
        first_byte_s=limits.first_byte_s,
        stall_s=limits.stall_s,
    )
    async with aclosing(frames):
        async for frame in frames:
            last = frame
            whole = str(frame.get("text", ""))
            if job.logprobs:
                found = tokens_of(frame.get("logprobs"), seen)
                seen += len(found)
                pending += found
            new = text.feed(whole)
            if text.stopped_by is not None:
                break
            if new:
                yield Piece(job.index, job.prompt_index, new, tuple(pending))
                pending = []
    if last is None:
        raise UpstreamLost("it ended without an answer")
    rest = text.feed(str(last.get("text", "")), final=True)
    if job.logprobs and not seen and text.length:
        raise ApiError(
            400,
            "'logprobs' cannot be used with this model: its FastChat worker tells none. Leave it out.",
            code="unsupported_parameter",
            param="logprobs",
        )
    yield _last(job, last, rest, pending, text)


def _last(job: Job, frame: dict[str, Any], rest: str, pending: list[Token], text: CumulativeText) -> Piece:
    usage = frame.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    completion = _count(counts.get("completion_tokens"))
    if frame.get("finish_reason") == "abort":
        raise UpstreamLost("it gave the request up")
    reason = _reason(job, frame.get("finish_reason"), completion) if text.stopped_by is None else "stop"
    if reason == "length" and completion == job.max_tokens - 1:
        # transformers workers of FastChat give the last token's index for the count.
        completion = job.max_tokens
    return Piece(
        job.index,
        job.prompt_index,
        rest,
        tuple(pending),
        reason,
        text.stopped_by,
        _count(counts.get("prompt_tokens")),
        completion,
    )


def _reason(job: Job, said: Any, completion: int) -> FinishReason:
    """What the worker says; some say nothing."""
    ended_by_length = completion + 1 >= job.max_tokens if said not in ("stop", "length") else said == "length"
    return "length" if ended_by_length else "stop"


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


async def generate_all(peer: Peer, jobs: Sequence[Job], limits: Limits) -> AsyncGenerator[Piece, None]:
    """The pieces of all generations as they come, a few generations at a time. The first failure ends all."""
    if len(jobs) == 1:
        async with aclosing(generate(peer, jobs[0], limits)) as pieces:
            async for piece in pieces:
                yield piece
        return
    held: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue(_PIECES_HELD)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def run(job: Job) -> None:
        async with gate, aclosing(generate(peer, job, limits)) as pieces:
            async for piece in pieces:
                await held.put(piece)

    async def run_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(run(job))
        except BaseExceptionGroup as failures:
            await held.put(failures.exceptions[0])
        else:
            await held.put(None)

    running = asyncio.create_task(run_all())
    try:
        while (found := await held.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
