"""Sends N streaming chats at once and times them; the same client for every peer."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2 as httpx


@dataclass(frozen=True)
class Result:
    """One round: all streams begun together, until the last has ended."""

    tokens_per_second: float
    ttft_s: float
    """Median over the streams."""


async def _stream(client: httpx.AsyncClient, url: str, model: str, prompt: str, tokens: int) -> float:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
    }
    started, first, last_finish = time.perf_counter(), 0.0, None
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{url}: {answer.status_code} {(await answer.aread())[:300]!r}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk or "error_code" in chunk:
                raise RuntimeError(f"{url}: {line[:300]}")
            for choice in chunk.get("choices", ()):
                if choice.get("delta", {}).get("content") and not first:
                    first = time.perf_counter()
                last_finish = choice.get("finish_reason") or last_finish
    if last_finish != "length":
        raise RuntimeError(f"{url}: an answer ended with {last_finish!r} before its {tokens} tokens")
    return (first or time.perf_counter()) - started


async def _round(url: str, model: str, prompts: Sequence[str], tokens: int) -> Result:
    limits = httpx.Limits(max_connections=len(prompts))
    async with httpx.AsyncClient(timeout=1800, limits=limits) as client:
        started = time.perf_counter()
        firsts = await asyncio.gather(*(_stream(client, url, model, prompt, tokens) for prompt in prompts))
        seconds = time.perf_counter() - started
    return Result(len(prompts) * tokens / seconds, statistics.median(firsts))


def run_round(url: str, model: str, prompts: Sequence[str], tokens: int) -> Result:
    return asyncio.run(_round(url, model, prompts, tokens))
