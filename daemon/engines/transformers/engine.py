"""The engine that the worker program holds: an asyncio face over one thread that owns the model."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import AsyncIterator
from collections.abc import Sequence as Seq
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
from daemon.engines.transformers.core import EngineCore, Event
from daemon.engines.transformers.detokenizer import DetokenizerFactory
from daemon.engines.transformers.embeddings import Embedder
from daemon.engines.transformers.processor import ImageProcessor
from daemon.engines.transformers.sampling import choice_seed
from daemon.engines.transformers.sequence import RequestState, Sequence
from daemon.engines.transformers.stops import StopStrings
from fcd.errors import ApiError

log = logging.getLogger("fcd.engine")


class TransformersEngine:
    """An `Engine` (see daemon.engines.base) over a loaded transformers model.

    Args:
        max_prompt: the longest prompt, and `max_total` the longest prompt and completion together, that a row can hold.
        decoder_start: for encoder-decoder models, the ids that the decoder begins with.
        images: the processor of a model that sees.
    """

    def __init__(
        self,
        info: EngineInfo,
        tokenizer: Any,
        core: EngineCore,
        detokenizers: DetokenizerFactory,
        embedder: Embedder,
        *,
        max_total: int,
        decoder_start: Seq[int] | None = None,
        images: ImageProcessor | None = None,
    ) -> None:
        self.info = info
        self.tokenizer = tokenizer
        self._core = core
        self._detokenizers = detokenizers
        self._embedder = embedder
        self._max_total = max_total
        self._decoder_start = decoder_start
        self._images = images
        self._inbox: queue.SimpleQueue[RequestState | int | None] = queue.SimpleQueue()
        self._outboxes: dict[int, asyncio.Queue[Delta | ApiError | None]] = {}
        self._loop = asyncio.get_running_loop()
        self._next_key = 0
        self._structured: Any = None
        """The grammar compiler, once a request has needed it."""
        self._failure: ApiError | None = None
        self._thread = threading.Thread(target=self._run, name="fcd-engine", daemon=True)
        self._thread.start()

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        """Yield deltas until every choice has finished; see `Engine.generate`."""
        if self._failure is not None:
            raise ApiError(503, self._failure.message, code="worker_died")
        state = self._state_of(request)
        outbox: asyncio.Queue[Delta | ApiError | None] = asyncio.Queue()
        self._outboxes[state.key] = outbox
        self._inbox.put(state)
        ended = False
        try:
            while True:
                item = await outbox.get()
                if isinstance(item, Delta):
                    yield item
                    continue
                ended = True
                if item is None:
                    return
                raise item
        finally:
            self._outboxes.pop(state.key, None)
            if not ended:
                self._inbox.put(state.key)

    async def compile_grammar(self, spec: GrammarSpec) -> Grammar:
        """Compile a form that answers must have; see `Engine.compile_grammar`."""
        if self._structured is None:
            # Importing xgrammar takes a moment, and most models never need it.
            module = await asyncio.to_thread(importlib.import_module, "daemon.engines.structured.compiler")
            if self._structured is None:
                self._structured = module.StructuredCompiler(
                    self.tokenizer, self.info.vocab_size, self.info.eos_token_ids
                )
        grammar: Grammar = await self._structured.compile(spec)
        return grammar

    async def read_images(self, text: str, images: Seq[ImageInput], *, specials: bool) -> ImagePrompt:
        """Put images into a prompt; see `Engine.read_images`."""
        if self._images is None:
            raise ApiError(400, "This model sees no images.", code="unsupported_content_part", param=images[0].param)
        return await asyncio.to_thread(self._images.prepare, text, images, specials=specials)

    async def embed(self, inputs: Seq[Seq[int]], adapter: str = "") -> list[list[float]]:
        """Vectors, computed off the step loop.

        Raises:
            ApiError: 400 when an input is empty or longer than the context.
        """
        for ids in inputs:
            self._check_ids(ids, "input")
        return await self._embedder.ask(inputs, adapter)

    def stats(self) -> EngineStats:
        return self._core.stats()

    async def close(self) -> None:
        """Stop the thread; running requests end with an ApiError."""
        if self._failure is None:
            self._failure = ApiError(503, "The model is being unloaded.", code="worker_died")
        if self._structured is not None:
            await self._structured.close()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _state_of(self, request: GenerationRequest) -> RequestState:
        params = request.params
        if request.adapter and request.adapter not in self.info.adapters:
            raise ApiError(400, f"This worker has no adapter '{request.adapter[:80]}'.", param="model")
        if request.images is not None:
            self._check_images(request)
        prompt = [int(i) for i in request.prompt_ids]
        self._check_ids(prompt, "prompt", answer=params.max_tokens > 0)
        encoder = None
        limit = min(self.info.context_length, self._max_total)
        start = prompt
        if self._decoder_start is not None:
            if params.prompt_logprobs is not None:
                raise ApiError(
                    400,
                    "Log-probabilities of the prompt do not exist for an encoder-decoder model.",
                    code="unsupported_parameter",
                    param="prompt_logprobs",
                )
            encoder, start = prompt, list(self._decoder_start)
        self._next_key += 1
        state = RequestState(request, self._next_key, time.monotonic())
        seed = params.seed if params.seed is not None else secrets.randbits(63)
        ends = frozenset(() if params.ignore_eos else self.info.eos_token_ids) | frozenset(params.stop_token_ids)
        for index in range(max(request.n, request.best_of)):
            state.sequences.append(
                Sequence(
                    owner=state,
                    index=index,
                    ids=list(start),
                    prompt_length=len(start),
                    max_length=min(len(start) + params.max_tokens, limit),
                    seed=choice_seed(seed, index),
                    detokenizer=self._detokenizers.make(skip_special_tokens=params.skip_special_tokens),
                    stops=StopStrings(params.stop, params.include_stop),
                    stop_ids=ends,
                    encoder_ids=encoder,
                    leader=state.sequences[0] if index else None,
                    mask=None if request.grammar is None else request.grammar.start(),
                )
            )
        return state

    def _check_images(self, request: GenerationRequest) -> None:
        """Refuse what a prompt with images cannot be asked for. Raises ApiError 400."""
        if self._images is None:
            raise ApiError(400, "This model sees no images.", code="unsupported_content_part", param="messages")
        for param, given in (("prompt_logprobs", request.params.prompt_logprobs), ("model", request.adapter or None)):
            if given is not None:
                what = "An adapter" if param == "model" else f"'{param}'"
                raise ApiError(
                    400, f"{what} cannot be used with images in the prompt.", code="unsupported_parameter", param=param
                )

    def _check_ids(self, ids: Seq[int], param: str, *, answer: bool = False) -> None:
        """Refuse what cannot be computed; with `answer`, one more token must fit behind the prompt."""
        if not ids:
            raise ApiError(400, f"'{param}' has no tokens.", param=param)
        limit = min(self.info.context_length, self._max_total)
        room = limit - 1 if answer and self._decoder_start is None else limit
        if len(ids) > room:
            why = (
                f"This model's context length is {self.info.context_length} tokens"
                if limit == self.info.context_length
                else f"The KV cache of this worker holds {limit} tokens"
            )
            raise ApiError(
                400,
                f"{why}, and '{param}' alone has {len(ids)}. Shorten it.",
                code="context_length_exceeded",
                param=param,
            )
        if min(ids) < 0 or max(ids) >= self.info.vocab_size:
            raise ApiError(400, f"'{param}' holds a token id outside 0 to {self.info.vocab_size - 1}.", param=param)

    def _run(self) -> None:
        """The engine thread: take what arrived, step, hand out; sleep on the inbox when there is nothing to do."""
        try:
            while True:
                refused = self._take_inbox()
                if refused is None:
                    break
                events = [*refused, *self._core.step()] if not self._core.idle() else refused
                if events:
                    self._loop.call_soon_threadsafe(self._deliver, events)
        except Exception as error:
            log.exception("the engine's step failed")
            self._failure = ApiError(
                500,
                f"The engine stopped: {type(error).__name__}: {error}. Load the model again; see the worker's log.",
                code="out_of_memory" if "memory" in str(error).lower() else "internal_error",
            )
        failure = self._failure or ApiError(503, "The model is being unloaded.", code="worker_died")
        try:
            self._loop.call_soon_threadsafe(self._deliver_failure, failure)
        except RuntimeError:
            log.debug("the event loop had closed before the engine's thread ended")

    def _take_inbox(self) -> list[Event] | None:
        """Everything that arrived; waits when the core is idle. None: stop. Gives the refusals."""
        refused: list[Event] = []
        wait = self._core.idle()
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return refused
            wait = False
            if item is None:
                return None
            if isinstance(item, int):
                self._core.cancel(item)
                wait = self._core.idle() and not refused
                continue
            try:
                self._core.submit(item)
            except ApiError as error:
                refused.append((item.key, error))

    def _deliver(self, events: list[Event]) -> None:
        outboxes = self._outboxes
        for key, item in events:
            outbox = outboxes.get(key)
            if outbox is not None:
                outbox.put_nowait(item)

    def _deliver_failure(self, failure: ApiError) -> None:
        for outbox in self._outboxes.values():
            outbox.put_nowait(failure)


def process_memory() -> int:
    """Resident bytes of this process, mapped weights included."""
    import psutil

    return int(psutil.Process(os.getpid()).memory_info().rss)
