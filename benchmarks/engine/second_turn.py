"""How long the second turn of a long chat waits for its first token, against the first turn, over HTTP."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2 as httpx

ANSWER = 32
"""Tokens of each answer."""
AIM = 0.1
"""The second turn's wait over the first's, at most."""


@dataclass(frozen=True)
class Turns:
    """Seconds to the first token of both turns."""

    first_s: float
    second_s: float

    @property
    def ratio(self) -> float:
        return self.second_s / self.first_s


def ask(url: str, model: str, messages: Sequence[dict[str, str]]) -> tuple[float, str]:
    """Seconds to the first text, and the whole answer."""
    body = {"model": model, "messages": list(messages), "temperature": 0, "max_tokens": ANSWER, "stream": True}
    started, first, text = time.perf_counter(), 0.0, ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=600) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{url}: {answer.status_code} {answer.read()[:300]!r}")
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(f"{url}: {line[:300]}")
            for choice in chunk.get("choices", ()):
                piece = choice.get("delta", {}).get("content") or ""
                if piece and not first:
                    first = time.perf_counter()
                text += piece
    return (first or time.perf_counter()) - started, text


def run_turns(url: str, model: str, prompts: Sequence[str]) -> list[Turns]:
    """One chat of two turns for each prompt, after a short one that warms the server up."""
    ask(url, model, [{"role": "user", "content": "Hello"}])
    found = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        first, text = ask(url, model, messages)
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And what follows from this?"}]
        second, _ = ask(url, model, messages)
        found.append(Turns(first, second))
    return found


def report(name: str, tokens: int, turns: Sequence[Turns]) -> str:
    ratio = statistics.median(t.ratio for t in turns)
    first, second = (statistics.median(getattr(t, part) for t in turns) for part in ("first_s", "second_s"))
    verdict = "met" if ratio <= AIM else "MISSED"
    return (
        f"{name}: a chat of {tokens} tokens: first token after {first:.2f} s, in its second turn after {second:.3f} s: "
        f"{ratio:.1%} (aim: at most {AIM:.0%}, {verdict}; {len(turns)} chats, {min(t.ratio for t in turns):.1%} to "
        f"{max(t.ratio for t in turns):.1%})"
    )
