"""A model's tokens as the grammar compiler sees them: the bytes that each one adds to the answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import xgrammar

_BYTE: Final = re.compile("<0x[0-9A-F]{2}>")
MARKS: Final = frozenset(
    {
        "<tool_call>",
        "</tool_call>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "<think>",
        "</think>",
        "[THINK]",
        "[/THINK]",
    }
)
"""Special tokens that forms are made of: they stand for their own text."""


def tokenizer_info(tokenizer: Any, vocab_size: int, stop_ids: Iterable[int]) -> xgrammar.TokenizerInfo:
    """Tokenizer and model width put together.

    Special tokens stand for no text, because they are no part of an answer; the marks of calls and thinking do. Rows of
    the model's output that no token belongs to (padding of the vocabulary) can never be chosen.

    Args:
        vocab_size: width of the model's logits, which may be more or less than the tokenizer has.
        stop_ids: the ids that end an answer; empty: the tokenizer's own end, where it has one.

    Raises:
        ValueError: xgrammar does not know this kind of tokenizer.
    """
    stops = sorted(set(stop_ids))
    found = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocab_size, stop_token_ids=stops or None)
    pieces = [""] * vocab_size
    for piece, index in tokenizer.get_vocab().items():
        if index < vocab_size:
            pieces[index] = piece
    for index, added in tokenizer.added_tokens_decoder.items():
        if index >= vocab_size or (
            _BYTE.fullmatch(added.content) and found.vocab_type == xgrammar.VocabType.BYTE_FALLBACK
        ):
            continue
        shown = not added.special or added.content in MARKS
        pieces[index] = _encoded(added.content, found.vocab_type) if shown else ""
    return xgrammar.TokenizerInfo(
        pieces,
        vocab_type=found.vocab_type,
        vocab_size=vocab_size,
        stop_token_ids=stops or list(found.stop_token_ids) or None,
        add_prefix_space=found.add_prefix_space,
    )


def _encoded(text: str, kind: Any) -> str:
    """Added tokens stand in the vocabulary as plain text; the others in the tokenizer's own alphabet."""
    if kind == xgrammar.VocabType.BYTE_LEVEL:
        return "".join(_ALPHABET[byte] for byte in text.encode())
    if kind == xgrammar.VocabType.BYTE_FALLBACK:
        return text.replace(" ", "\u2581")
    return text


def _byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    missing = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table.update({byte: chr(256 + position) for position, byte in enumerate(missing)})
    return [table[byte] for byte in range(256)]


_ALPHABET = _byte_alphabet()
