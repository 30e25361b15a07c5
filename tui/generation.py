"""One answer: from a request to the text, thoughts, speeds and errors of a variant."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from fcd.errors import FcdError
from tui.chats import Variant
from fcd.think import ThinkSplitter


class Streams(Protocol):
    """What is needed of the daemon's client here."""

    def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]: ...


class Generation:
    """Streams into a variant. The variant is true at every moment, so that stopping or losing the daemon keeps it."""

    def __init__(self, variant: Variant, clock: Callable[[], float] = time.monotonic) -> None:
        self.variant = variant
        self.error: FcdError | None = None
        self._clock = clock
        self._think = ThinkSplitter()
        self._begun = 0.0
        self._first = 0.0
        self._last = 0.0
        self._chunks = 0

    async def run(self, client: Streams, body: Mapping[str, Any]) -> None:
        """Until the answer is complete or has failed; cancel it to stop."""
        variant = self.variant
        variant.state = "writing"
        self._begun = self._clock()
        try:
            async for chunk in client.chat({**body, "stream_options": {"include_usage": True}}):
                self._take(chunk)
            variant.state = "done" if variant.state == "writing" else variant.state
        except FcdError as error:
            self.error = error
            variant.state = "failed"
            variant.error = str(error)
        except BaseException:
            variant.state = "stopped"
            raise
        finally:
            self._add(*self._think.finish())
            self._measure()

    def _take(self, chunk: Mapping[str, Any]) -> None:
        usage = chunk.get("usage")
        if usage:
            self.variant.prompt_tokens = usage.get("prompt_tokens") or 0
            self.variant.completion_tokens = usage.get("completion_tokens") or 0
            self.variant.counted = True
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            answer, tagged = self._think.feed(delta.get("content") or "")
            if delta.get("content") or thought:
                self._tick()
            self._add(answer, thought + tagged)
            if choice.get("finish_reason") == "length":
                self.variant.state = "cut"

    def _tick(self) -> None:
        self._last = self._clock()
        self._chunks += 1
        if self._chunks == 1:
            self._first = self._last
            self.variant.ttft_s = self._first - self._begun
        if not self.variant.counted:
            self.variant.completion_tokens = self._chunks
        self._measure()

    def _add(self, answer: str, thought: str) -> None:
        self.variant.reasoning += thought
        if thought:
            self.variant.thought_s = self._clock() - self._begun
        self.variant.text += answer

    def _measure(self) -> None:
        """Decoding speed: tokens after the first, over the time since the first."""
        span = self._last - self._first
        tokens = self.variant.completion_tokens - 1
        self.variant.tokens_per_second = tokens / span if span > 0 and tokens > 0 else 0.0
