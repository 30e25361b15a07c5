"""A load of streamed completions over bare sockets, light enough to keep up with an engine on a GPU."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import time
from dataclasses import dataclass, field

_EVENT = b"data: {"
_LIMIT_S = 300.0
_seeds = itertools.count(1)


@dataclass(frozen=True)
class Way:
    """Where requests go: a TCP port of this machine, or a unix socket."""

    port: int = 0
    socket: str = ""

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.socket:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass
class Result:
    """One load. Times in seconds."""

    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def ttft_ms(self) -> float:
        return 1000 * statistics.median(self.first) if self.first else 0.0

    @property
    def p99_gap_ms(self) -> float:
        ordered = sorted(self.gaps)
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))] if ordered else 0.0


async def run(way: Way, model: str, *, at_once: int, requests: int, prompt: int = 128, answer: int = 128) -> Result:
    """So many requests, so many at once, each of `prompt` random tokens in and exactly `answer` tokens out."""
    result = Result()
    # Other prompts each time: the engine keeps those that it has seen.
    chance = random.Random(next(_seeds))
    bodies = [_body(model, [chance.randrange(300, 8000) for _ in range(prompt)], answer) for _ in range(requests)]
    began = time.perf_counter()

    async def client() -> None:
        while bodies:
            try:
                async with asyncio.timeout(_LIMIT_S):
                    await _one(way, bodies.pop(), result)
            except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError) as error:
                result.errors.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(client() for _ in range(at_once)))
    result.seconds = time.perf_counter() - began
    return result


def _body(model: str, prompt: list[int], answer: int) -> bytes:
    return json.dumps(
        {
            "model": model,
            "prompt": prompt,
            "max_tokens": answer,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


async def _one(way: Way, body: bytes, result: Result) -> None:
    reader, writer = await way.open()
    try:
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        sent = last = time.perf_counter()
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer.split(b"\r\n", 1)[0]:
            raise ValueError((answer.split(b"\r\n", 1)[0] + b" " + await reader.read(300)).decode("utf-8", "replace"))
        tail, seen = b"", 0
        while data := await reader.read(1 << 16):
            now = time.perf_counter()
            count = data.count(_EVENT)
            if count:
                if not seen:
                    result.first.append(now - sent)
                else:
                    result.gaps += [now - last, *([0.0] * (count - 1))]
                seen, last = seen + count, now
            tail = (tail + data)[-2000:]
        result.tokens += _tokens(tail)
    finally:
        writer.close()


def _tokens(tail: bytes) -> int:
    """What the last event says of its answer."""
    place = tail.rfind(b'"completion_tokens":')
    if b"[DONE]" not in tail or place < 0:
        raise ValueError(f"broke off: {tail[-200:].decode('utf-8', 'replace')}")
    digits = tail[place + len(b'"completion_tokens":') :].lstrip()
    return int(digits.split(b",")[0].split(b"}")[0])
