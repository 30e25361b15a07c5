"""Models that think before they answer: what of their text is thinking, and what the answer. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal

from daemon.worker.tools.hold import partial_marker


@dataclass(frozen=True, slots=True)
class ThinkTags:
    """The marks around a model's thinking."""

    open: str
    close: str


_KNOWN: Final = (ThinkTags("<think>", "</think>"), ThinkTags("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Reasoner:
    """What is known of a model's thinking.

    Args:
        tags: None for models that do not think.
        switches: the variables of its template by which thinking is controlled.
    """

    tags: ThinkTags | None
    switches: frozenset[str] = frozenset()

    def opened_by(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside the block, so that the answer begins with thinking."""
        return self.tags is not None and prompt.rstrip().endswith(self.tags.open)

    def closed_by(self, prompt: str) -> bool:
        """Whether a rendered prompt ends behind a block: thinking is off for this answer."""
        return self.tags is not None and prompt.rstrip().endswith(self.tags.close)


def detect_reasoning(template: str, tokens: Collection[str]) -> Reasoner:
    """How a model thinks, from the source of its chat template and its added tokens."""
    switches = frozenset(name for name in ("enable_thinking", "reasoning_effort") if mentions(template, name))
    for tags in _KNOWN:
        if tags.close in template or (tags.open in tokens and tags.close in tokens):
            return Reasoner(tags, switches)
    return Reasoner(None, switches)


def mentions(template: str, name: str) -> bool:
    """Whether a template's source has a variable of this name, as far as its text says."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", template) is not None


Piece = tuple[Literal["reasoning", "content"], str]


class ReasoningSplitter:
    """Splits one completion while it comes; how it is cut into pieces makes no difference.

    Whitespace around the thinking, and between it and the answer, belongs to the form and is left out.

    Args:
        opened: the prompt has opened the block.
    """

    def __init__(self, tags: ThinkTags, *, opened: bool) -> None:
        self._tags = tags
        self._state: Literal["start", "thinking", "gap", "content"] = "thinking" if opened else "start"
        self._pending = ""
        self._trimming = True

    @property
    def thinking(self) -> bool:
        """The text so far ends inside the block."""
        return self._state == "thinking"

    def feed(self, text: str) -> list[Piece]:
        self._pending += text
        pieces: list[Piece] = []
        while self._pending and self._advance(pieces):
            pass
        return pieces

    def finish(self) -> list[Piece]:
        """What was held back at the end of the completion."""
        pieces: list[Piece] = []
        if self._state == "thinking":
            self._think(self._pending.rstrip(), pieces)
        elif self._state != "gap" and self._pending:
            pieces.append(("content", self._pending))
        self._pending = ""
        return pieces

    def _advance(self, pieces: list[Piece]) -> bool:
        if self._state == "start":
            return self._at_start()
        if self._state == "thinking":
            return self._in_thinking(pieces)
        if self._state == "gap":
            self._pending = self._pending.lstrip()
            self._state = "content" if self._pending else "gap"
            return bool(self._pending)
        pieces.append(("content", self._pending))
        self._pending = ""
        return False

    def _at_start(self) -> bool:
        words = self._pending.lstrip()
        if words.startswith(self._tags.open):
            self._pending = words[len(self._tags.open) :]
            self._state = "thinking"
            return True
        if self._tags.open.startswith(words):
            return False
        self._state = "content"
        return True

    def _in_thinking(self, pieces: list[Piece]) -> bool:
        at = self._pending.find(self._tags.close)
        if at >= 0:
            self._think(self._pending[:at].rstrip(), pieces)
            self._pending = self._pending[at + len(self._tags.close) :]
            self._state = "gap"
            return True
        held = partial_marker(self._pending, (self._tags.close,))
        sure = self._pending[: len(self._pending) - held].rstrip()
        self._think(sure, pieces)
        self._pending = self._pending[len(sure) :]
        return False

    def _think(self, text: str, pieces: list[Piece]) -> None:
        if self._trimming:
            text = text.lstrip()
        if text:
            self._trimming = False
            pieces.append(("reasoning", text))
