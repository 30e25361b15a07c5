"""Token ids to text, a token at a time: whole characters only, and in the end equal to decoding all at once."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

from tokenizers import decoders

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Detokenizer(Protocol):
    def place(self, token_id: int) -> int:
        """How many characters of the text stand before this token, were it fed next: that many are before the character
        that it goes on with, if one is open."""
        ...

    def feed(self, token_id: int) -> str:
        """The text that is certain now."""
        ...

    def finish(self) -> str:
        """The rest, incomplete bytes shown as U+FFFD."""
        ...


class DetokenizerFactory:
    """Makes a detokenizer for each completion; reads the tokenizer once."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(int(i) for i in tokenizer.all_special_ids)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._table: list[bytes] | None = None
        self.byte_ids: frozenset[int] = frozenset()
        if backend is not None:
            vocabulary = backend.get_vocab(with_added_tokens=True)
            self.byte_ids = frozenset(i for token, i in vocabulary.items() if _BYTE_TOKEN.fullmatch(token))
            self._special |= {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
            if type(backend.decoder) is decoders.ByteLevel:
                self._table = _byte_table(backend)
        self.decode: Callable[[list[int]], str] = self._plain_decode if backend is None else self._backend_decode
        self._backend: Any = backend

    def make(self, *, skip_special_tokens: bool) -> Detokenizer:
        skipped = self._special if skip_special_tokens else frozenset()
        if self._table is not None:
            return _ByteDetokenizer(self._table, skipped)
        return _WindowDetokenizer(self, skipped)

    def token_text(self, token_id: int) -> str:
        """One token by itself, special tokens by name: what log-probability lists show."""
        if self._table is not None:
            return self._table[token_id].decode("utf-8", "replace") if token_id < len(self._table) else ""
        return self.decode([token_id])

    def _backend_decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def _plain_decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


class _ByteDetokenizer:
    """For byte-level BPE each token is a fixed run of bytes, so a table and a UTF-8 decoder are all that is needed."""

    __slots__ = ("_decoder", "_given", "_skipped", "_table")

    def __init__(self, table: list[bytes], skipped: frozenset[int]) -> None:
        self._table = table
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._given = 0

    def place(self, token_id: int) -> int:
        if token_id in self._skipped or token_id >= len(self._table):
            return self._given
        data = self._table[token_id]
        # An open character that this token does not go on with becomes U+FFFD before it.
        broken = bool(self._decoder.getstate()[0]) and data[:1] != b"" and not 0x80 <= data[0] < 0xC0
        return self._given + broken

    def feed(self, token_id: int) -> str:
        if token_id in self._skipped or token_id >= len(self._table):
            return ""
        text = self._decoder.decode(self._table[token_id])
        self._given += len(text)
        return text

    def finish(self) -> str:
        return self._decoder.decode(b"", True)


_LONGEST_RUN = 64
"""Tokens whose text is open. In a longer run of byte tokens each is where the last known one was: decoding the run
anew for each would take time that grows with its square."""


class _WindowDetokenizer:
    """For any other tokenizer: decode a short window of tokens with and without the new ones, and give out the rest.

    A token's text depends only on its neighbours, so the window needs one settled run of tokens as its context.
    """

    __slots__ = ("_factory", "_given", "_ids", "_known", "_place", "_read", "_skipped", "_start")

    def __init__(self, factory: DetokenizerFactory, skipped: frozenset[int]) -> None:
        self._factory = factory
        self._skipped = skipped
        self._ids: list[int] = []
        self._start = 0
        self._read = 0
        self._known = ""
        self._given = 0
        self._place = 0

    def place(self, token_id: int) -> int:
        if len(self._ids) - self._start > _LONGEST_RUN:
            return self._place
        text = self._factory.decode(self._ids[self._start :])
        in_bytes = token_id in self._factory.byte_ids
        opened = text.endswith("\ufffd") and (self._ids[-1] in self._factory.byte_ids) == in_bytes
        if not opened or token_id in self._skipped:
            self._place = max(self._place, self._given + len(text) - len(self._known))
        return self._place

    def feed(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        self._ids.append(token_id)
        # A run of byte tokens is decoded as a whole: one invalid byte at its end changes all of it.
        if token_id in self._factory.byte_ids:
            return ""
        text = self._factory.decode(self._ids[self._start :])
        # A trailing U+FFFD may be half a character that the next token completes.
        if text.endswith("\ufffd") or not text.startswith(self._known) or len(text) <= len(self._known):
            return ""
        new = text[len(self._known) :]
        self._given += len(new)
        self._settle()
        return new

    def finish(self) -> str:
        text = self._factory.decode(self._ids[self._start :])
        return text[len(self._known) :]

    def _settle(self) -> None:
        """Everything fed so far is given out: keep the last run as the context of the next."""
        self._start, self._read = self._read, len(self._ids)
        self._known = self._factory.decode(self._ids[self._start :])


def _byte_table(backend: Any) -> list[bytes]:
    characters = _byte_characters()
    vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        known = all(c in characters for c in token)
        table[token_id] = bytes(characters[c] for c in token) if known else token.encode()
    return table


@lru_cache(maxsize=1)
def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, inverted."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in printable}
    table.update({chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in printable)})
    return table
