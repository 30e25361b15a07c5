"""What single tokens are as text and bytes, for log-probabilities and /tokenize."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.engines.base import TokenLogprob
from fcd.wire.openai_answers import (
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


@dataclass(frozen=True)
class Echo:
    """What `echo` gives back of a prompt."""

    text: str = ""
    hidden: int = 0
    """How many characters stand before it in the text of the prompt's tokens: a BOS that the prompt did not have."""

    @classmethod
    def of(cls, text: str, decoded: str) -> Echo:
        """Of a prompt that was this text; `decoded` is that of its tokens."""
        return cls(text, max(0, decoded.find(text)))

    def places(self, entries: Sequence[TokenLogprob]) -> list[int]:
        """Where the prompt's tokens stand in the choice's text."""
        return [min(max(0, entry.begin - self.hidden), len(self.text)) for entry in entries]

    def places_behind(self, entries: Sequence[TokenLogprob], length: int) -> list[int]:
        """Where the answer's tokens stand in it, of which `length` characters are shown."""
        return [len(self.text) + min(entry.begin, length) for entry in entries]


class TokenTable:
    """Bytes of each token of one tokenizer, worked out when they are first asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._byte_level = _is_byte_level(tokenizer)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token_id: int, text: str) -> bytes:
        """The token's own bytes; a token that is part of a character has bytes that are no text by themselves."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._work_out(token_id, text)
        return known

    def _work_out(self, token_id: int, text: str) -> bytes:
        if "\ufffd" not in text:
            return text.encode()
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(piece, str):
            return text.encode()
        found = _BYTE_TOKEN.match(piece)
        if found:
            return bytes([int(found[1], 16)])
        if self._byte_level and all(char in _BYTE_OF for char in piece):
            return bytes(_BYTE_OF[char] for char in piece)
        return text.encode()

    def name_of(self, token_id: int, text: str) -> str:
        """The token in a dictionary of tokens: OpenAI writes `bytes:\\xNN` for what is no text by itself."""
        if "\ufffd" not in text:
            return text
        raw = self.bytes_of(token_id, text)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat(self, entries: Sequence[TokenLogprob]) -> ChatLogprobs:
        return ChatLogprobs(
            [
                ChatLogprob(
                    entry.token,
                    _finite(entry.logprob),
                    list(self.bytes_of(entry.token_id, entry.token)),
                    [TopLogprob(text, _finite(value), list(self.bytes_of(id, text))) for id, text, value in entry.top],
                )
                for entry in entries
            ]
        )

    def completion(self, entries: Sequence[TokenLogprob], places: Sequence[int]) -> CompletionLogprobs:
        """`places`: how many characters of the choice's text stand before each entry."""
        found = CompletionLogprobs(list(places), [], [], [])
        for entry in entries:
            found.tokens.append(self.name_of(entry.token_id, entry.token))
            found.token_logprobs.append(None if entry.logprob is None else _finite(entry.logprob))
            found.top_logprobs.append(None if entry.logprob is None else self._top(entry))
        return found

    def prompt(self, entries: Sequence[TokenLogprob]) -> PromptLogprobs:
        """vLLM's `prompt_logprobs`: per token the likeliest ones and itself, by id."""
        answer: PromptLogprobs = []
        for entry in entries:
            if entry.logprob is None:
                answer.append(None)
                continue
            ranked = {
                str(id): PromptLogprob(_finite(lp), rank, text) for rank, (id, text, lp) in enumerate(entry.top, 1)
            }
            ranked.setdefault(str(entry.token_id), PromptLogprob(_finite(entry.logprob), None, entry.token))
            answer.append(ranked)
        return answer

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """The likeliest tokens and the chosen one; of two that read alike, the likelier."""
        top: dict[str, float] = {}
        for id, text, value in entry.top:
            top.setdefault(self.name_of(id, text), _finite(value))
        top.setdefault(self.name_of(entry.token_id, entry.token), _finite(entry.logprob))
        return top


def _finite(value: float | None) -> float:
    """JSON has no infinity; OpenAI writes -9999.0 for what is as good as impossible."""
    return value if value is not None and value > -9999.0 else -9999.0


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    try:
        return '"ByteLevel"' in json.dumps(json.loads(backend.to_str()).get("decoder"))
    except (ValueError, AttributeError):
        return False


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's map from printable characters to the bytes that they stand for."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    missing = [byte for byte in range(256) if byte not in printable]
    table.update({chr(256 + position): byte for position, byte in enumerate(missing)})
    return table


_BYTE_OF = _byte_alphabet()
