"""The engine of encoders (BERT and its kin): they make embeddings and no text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any

from daemon.engines.base import (
    Delta,
    EngineInfo,
    EngineStats,
    GenerationRequest,
    Grammar,
    GrammarSpec,
    ImageInput,
    ImagePrompt,
)
from daemon.engines.transformers.embeddings import Embedder
from fcd.errors import ApiError

_RECENT_S = 10.0


class EncoderEngine:
    """An `Engine` (see daemon.engines.base) over a model that only embeds."""

    def __init__(self, info: EngineInfo, tokenizer: Any, embedder: Embedder) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._embedder = embedder
        self._running = 0
        self._tokens = 0
        self._done: deque[tuple[float, int]] = deque(maxlen=256)
        self._closed = False

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Raises ApiError: 400, it writes no text."""
        raise self._no_text()
        yield  # what makes this a generator

    async def compile_grammar(self, spec: GrammarSpec) -> Grammar:
        """Raises ApiError: 400, it writes no text."""
        raise self._no_text()

    async def read_images(self, text: str, images: Sequence[ImageInput], *, specials: bool) -> ImagePrompt:
        """Raises ApiError: 400, it writes no text."""
        raise self._no_text()

    async def embed(self, inputs: Sequence[Sequence[int]], adapter: str = "") -> list[list[float]]:
        """Vectors, as the model's own files say.

        Raises:
            ApiError: 400 when an input is empty or longer than the context, 503 after `close`.
        """
        for ids in inputs:
            if not 0 < len(ids) <= self.info.context_length:
                raise ApiError(400, f"An input has 1 to {self.info.context_length} tokens.", param="input")
        if self._closed:
            raise ApiError(503, "The model is being unloaded.", code="worker_died")
        self._running += 1
        try:
            vectors = await self._embedder.ask(inputs)
        finally:
            self._running -= 1
        count = sum(len(ids) for ids in inputs)
        self._tokens += count
        self._done.append((time.monotonic(), count))
        return vectors

    def stats(self) -> EngineStats:
        recent = sum(count for at, count in self._done if at > time.monotonic() - _RECENT_S)
        return EngineStats(
            running=min(self._running, 1),
            waiting=max(self._running - 1, 0),
            tokens_per_second=recent / _RECENT_S,
            prompt_tokens=self._tokens,
            memory_bytes=self.info.memory_bytes,
        )

    async def close(self) -> None:
        self._closed = True

    def _no_text(self) -> ApiError:
        return ApiError(
            400,
            f"This model ({self.info.architecture}) makes embeddings and writes no text: use /v1/embeddings.",
            code="unsupported_model",
            param="model",
        )
