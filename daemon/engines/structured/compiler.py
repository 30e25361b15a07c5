"""From a form that an answer must have to a compiled grammar: off the event loop, off the engine's thread, cached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import xgrammar

from daemon.engines.base import GrammarSpec
from daemon.engines.structured.mask import CompiledGrammar
from daemon.engines.structured.schema import prepare
from daemon.engines.structured.trial import TrialFailed, Trier
from daemon.engines.structured.vocabulary import tokenizer_info
from fcd.errors import ApiError, invalid

TRIAL_S: Final = 1.6
"""How long a grammar may take to compile; what takes longer is refused, and the answer comes within two seconds."""
CACHE_BYTES: Final = 64 * 1024 * 1024
GRAMMAR_BYTES: Final = 32 * 1024 * 1024
REFUSALS: Final = 256
MAX_WAITING: Final = 16
_NICE: Final = 5


class StructuredCompiler:
    """Compiles grammars for one model.

    A grammar is first tried in a process of its own, which is killed when it is stuck (see `helper`); what passes is
    compiled here, in a thread of low priority. Used from one event loop.

    Args:
        vocab_size: width of the model's logits.
        stop_ids: the ids that end an answer.
        trial_s: the limit on a trial.
        cache_bytes: the limit on all compiled grammars together; the ones used longest ago go first.
    """

    def __init__(
        self,
        tokenizer: Any,
        vocab_size: int,
        stop_ids: Iterable[int],
        *,
        trial_s: float = TRIAL_S,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._stop_ids = tuple(stop_ids)
        self._trial_s = trial_s
        self._cache_bytes = cache_bytes
        self._info: xgrammar.TokenizerInfo | None = None
        self._trier: Trier | None = None
        self._cache: OrderedDict[str, CompiledGrammar] = OrderedDict()
        self._refused: OrderedDict[str, ApiError] = OrderedDict()
        self._under_way: dict[str, asyncio.Future[CompiledGrammar]] = {}
        self._setup = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "fcd-grammar", initializer=_lower_priority)

    @property
    def cached_bytes(self) -> int:
        return sum(grammar.memory_bytes for grammar in self._cache.values())

    async def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """The grammar of a form; the same form is compiled once.

        Raises:
            ApiError: 400 naming the field whose schema cannot be used, 429 when too many are waiting already.
        """
        key = _key(spec)
        if key in self._refused:
            self._refused.move_to_end(key)
            raise self._refused[key]
        known = self._cache.get(key)
        if known is not None:
            self._cache.move_to_end(key)
            return known
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_WAITING:
                raise ApiError(429, "Many schemas are being compiled; try again.", code="overloaded", retry_after=1)
            task = self._under_way[key] = asyncio.ensure_future(self._compile(key, spec))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        # Others may be waiting for the same one: a caller that leaves does not end it.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the helper process and the thread."""
        for task in self._under_way.values():
            task.cancel()
        if self._trier is not None:
            await self._trier.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _compile(self, key: str, spec: GrammarSpec) -> CompiledGrammar:
        try:
            schemas = await asyncio.to_thread(_prepared, spec)
            grammar = await self._make(spec, schemas)
        except ApiError as error:
            if error.status == 400:
                self._refused[key] = error
                while len(self._refused) > REFUSALS:
                    self._refused.popitem(last=False)
            raise
        self._keep(key, grammar)
        return grammar

    async def _make(self, spec: GrammarSpec, schemas: list[dict[str, Any]]) -> CompiledGrammar:
        loop = asyncio.get_running_loop()
        async with self._setup:
            if self._trier is None:
                self._info, text = await loop.run_in_executor(self._thread, self._read_vocabulary)
                self._trier = Trier(text, self._trial_s)
        try:
            passed = await self._trier.run(spec.format, schemas)
        except TrialFailed as failed:
            raise _refusal(spec, failed.message, failed.schema) from None
        except OSError as error:
            raise ApiError(500, f"Schemas cannot be compiled here: {error}", code="internal_error") from error
        if passed.bytes > GRAMMAR_BYTES:
            raise _refusal(spec, f"its grammar takes {passed.bytes >> 20} MiB; {GRAMMAR_BYTES >> 20} are allowed", None)
        return await loop.run_in_executor(self._thread, self._compile_tag, passed.tag)

    def _read_vocabulary(self) -> tuple[xgrammar.TokenizerInfo, str]:
        try:
            info = tokenizer_info(self._tokenizer, self._vocab_size, self._stop_ids)
        except ValueError as error:
            raise ApiError(
                400,
                f"This model's tokenizer cannot be constrained to a form: {error}",
                code="unsupported_parameter",
                param="response_format",
            ) from error
        return info, str(info.serialize_json())

    def _compile_tag(self, tag: str) -> CompiledGrammar:
        assert self._info is not None
        compiler = xgrammar.GrammarCompiler(self._info, max_threads=1, cache_enabled=False)
        compiled = compiler.compile_structural_tag(tag)
        return CompiledGrammar(compiled, self._vocab_size, has_end=bool(self._info.stop_token_ids))

    def _keep(self, key: str, grammar: CompiledGrammar) -> None:
        self._cache[key] = grammar
        while len(self._cache) > 1 and self.cached_bytes > self._cache_bytes:
            self._cache.popitem(last=False)


def _key(spec: GrammarSpec) -> str:
    parts = [spec.format, [[source.schema, source.strict, source.param] for source in spec.schemas]]
    try:
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    except (RecursionError, ValueError):
        raise invalid(spec.param, f"'{spec.param}' is nested too deeply.") from None


def _prepared(spec: GrammarSpec) -> list[dict[str, Any]]:
    return [
        {"schema": prepare(source.schema, source.param, strict=source.strict), "strict": source.strict}
        for source in spec.schemas
    ]


def _refusal(spec: GrammarSpec, message: str, schema: int | None) -> ApiError:
    if schema is None and len(spec.schemas) == 1:
        schema = 0
    param = spec.param if schema is None else spec.schemas[schema].param
    return invalid(param, f"'{param}' cannot be used: {message.rstrip('.')}.")


def _lower_priority() -> None:
    """Compiling must not slow the step loop: on Linux a thread has a priority of its own."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
