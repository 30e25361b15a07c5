"""Compile forms for the tiny tokenizer and walk through them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

import numpy as np

from daemon.engines.base import Grammar, GrammarSpec, SchemaSource, TokenMask
from daemon.engines.structured.compiler import StructuredCompiler
from tests.tiny_models import VOCABULARY, make_tokenizer

END = 2
PARAM = "response_format.json_schema.schema"


@cache
def _tokenizer() -> Any:
    return make_tokenizer()


def tiny_encode(text: str) -> list[int]:
    ids: list[int] = _tokenizer().encode(text, add_special_tokens=False)
    return ids


def with_compiler(test: Callable[[StructuredCompiler], Awaitable[None]], tokenizer: Any = None, **options: Any) -> None:
    """Run `test` with a compiler for the tiny tokenizer, and close it."""

    async def main() -> None:
        compiler = StructuredCompiler(tokenizer or make_tokenizer(), VOCABULARY, [END], **options)
        try:
            await test(compiler)
        finally:
            await compiler.close()

    asyncio.run(main())


def schema_spec(schema: Any, *, strict: bool = False, param: str = PARAM) -> GrammarSpec:
    return GrammarSpec({"type": "schema", "index": 0}, (SchemaSource(schema, param, strict),))


def allowed(mask: TokenMask) -> set[int]:
    bits = np.zeros((1, (mask.vocab_size + 31) // 32), np.int32)
    mask.fill(bits, 0)
    spread = np.unpackbits(bits.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(spread).tolist())


def fits(grammar: Grammar, text: str, encode: Callable[[str], list[int]] | None = None) -> bool:
    """Whether a whole answer keeps to the form, its end included; every token must be among the allowed ones."""
    mask = grammar.start()
    for token in [*(encode or tiny_encode)(text), END]:
        inside = token in allowed(mask)
        assert mask.accept(token) == inside
        if not inside:
            return False
    return mask.finished
