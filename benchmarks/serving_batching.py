"""How much faster many requests are together than one after another, through the daemon.

    python benchmarks/serving_batching.py [--model guide] [--requests 32] [--rounds 5]

Starts a daemon of its own (FCD_HOME in a temporary folder), sends the same prompts one after another and then all at
once, `--rounds` times, and prints output tokens per second of both, their ratio, and whether the greedy texts agree.
The worker runs in fp32, so that equal texts are to be expected.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import httpx2 as httpx

SUBJECTS = ["Ada", "the sea", "a clock", "three", "Paris", "green", "Monday", "fcd", "winter", "a list of fruit"]
QUESTIONS = ["What is {}?", "Tell me about {}.", "Repeat {} three times.", "Spell {}.", "Say hello to {}."]


def prompts(count: int) -> list[str]:
    every = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
    return [every[number % len(every)] for number in range(count)]


async def ask(client: httpx.AsyncClient, model: str, prompt: str, tokens: int) -> tuple[str, int]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    decoded = answer.json()
    return decoded["choices"][0]["message"]["content"], decoded["usage"]["completion_tokens"]


async def measure(url: str, model: str, asked: list[str], tokens: int, rounds: int) -> None:
    limits = httpx.Limits(max_connections=len(asked))
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await ask(client, model, "Hello", tokens)
        ratios, alone_rates, together_rates, equal = [], [], [], True
        for number in range(rounds):
            started = time.perf_counter()
            alone = [await ask(client, model, prompt, tokens) for prompt in asked]
            between = time.perf_counter()
            together = await asyncio.gather(*(ask(client, model, prompt, tokens) for prompt in asked))
            ended = time.perf_counter()
            alone_rates.append(sum(count for _, count in alone) / (between - started))
            together_rates.append(sum(count for _, count in together) / (ended - between))
            ratios.append(together_rates[-1] / alone_rates[-1])
            same = [text for text, _ in alone] == [text for text, _ in together]
            equal = equal and same
            print(
                f"round {number + 1}: one after another {alone_rates[-1]:7.0f} tok/s, "
                f"{len(asked)} at once {together_rates[-1]:7.0f} tok/s, {ratios[-1]:.1f}x, texts equal: {same}",
                flush=True,
            )
    print(
        f"median of {rounds}: {statistics.median(alone_rates):.0f} and {statistics.median(together_rates):.0f} tok/s, "
        f"{statistics.median(ratios):.1f}x, texts equal in every round: {equal}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="guide")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "FCD_HOME": home, "FCD_PORT": "0", "FCD_WORKER_DTYPE": "float32"}
        fcd = [sys.executable, "-m", "fcd"]
        subprocess.run([*fcd, "daemon", "start"], env=environ, check=True)
        try:
            status = subprocess.run([*fcd, "daemon", "status", "--json"], env=environ, check=True, capture_output=True)
            url = json.loads(status.stdout)["url"]
            asyncio.run(measure(url, args.model, prompts(args.requests), args.tokens, args.rounds))
        finally:
            subprocess.run([*fcd, "daemon", "stop"], env=environ, check=True)


if __name__ == "__main__":
    main()
