"""One side of a turn while it is written: from the model's pieces to what may be shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec

from daemon.arena.asking import Asker, Piece
from daemon.arena.masking import Masker, Vocabulary, identity_of
from daemon.arena.records import StoredAnswer
from fcd.errors import ApiError
from fcd.wire.arena import AnswerState, AnswerStats, Sampling

HIDDEN_ERROR = "This side could not answer."
"""The same for every model and every fault, so that it tells nothing."""

_OPEN, _CLOSE = "<think>", "</think>"
_LONGEST_ANSWER = 400_000


class Writer:
    """Asks and collects. `ready` is what the pacer may show; the rest is for after the vote."""

    def __init__(self, model: str, vocabulary: Vocabulary | None, clock: Callable[[], float] = time.monotonic) -> None:
        identity = identity_of(model)
        self.model = model
        self.masker = Masker(vocabulary, identity.anywhere | identity.of_itself)
        self.stats = AnswerStats()
        self.state: AnswerState = "waiting"
        self.error = ""
        self._text = ""
        self._clock = clock
        self._thoughts: str | None = ""

    @property
    def ready(self) -> str:
        return self.masker.text

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    async def run(self, asker: Asker, messages: list[dict[str, Any]], sampling: Sampling) -> None:
        """To the end of the answer; a failure is kept in `state` and `error`, not raised."""
        began = self._clock()
        first = last = 0.0
        try:
            async with aclosing(asker.ask(self.model, messages, sampling)) as pieces:
                async for piece in pieces:
                    if piece.text:
                        last = self._clock()
                        first = first or last
                    self._take(piece)
            self._finish("done")
        except ApiError as error:
            self.error = error.message
            self._finish("failed")
        except Exception as error:  # a broken stream must not leave a battle without an end
            self.error = f"{type(error).__name__}: {error}"
            self._finish("failed")
        finally:
            if first:
                self.stats.ttft_s = first - began
                span, written = last - first, self.stats.completion_tokens
                self.stats.tokens_per_second = (written - 1) / span if span > 0 and written else 0.0

    def stop(self) -> None:
        if not self.is_over:
            self._finish("stopped")

    def answer(self, shown: int | None = None) -> StoredAnswer:
        """What is kept: all, or only what the voter had seen when the vote fell."""
        if shown is None or shown >= len(self.ready):
            return StoredAnswer(self._text, self.state, self.error, self.stats)
        state: AnswerState = "stopped" if self.state == "done" else self.state
        # The worker's count is of the whole answer, which was not seen.
        stats = msgspec.structs.replace(self.stats, completion_tokens=0)
        return StoredAnswer(self._text[: self.masker.raw_length(shown)], state, self.error, stats)

    def _take(self, piece: Piece) -> None:
        if piece.finish_reason:
            self.stats.finish_reason = piece.finish_reason
        self.stats.prompt_tokens = piece.prompt_tokens or self.stats.prompt_tokens
        self.stats.completion_tokens = piece.completion_tokens or self.stats.completion_tokens
        if piece.text and len(self._text) < _LONGEST_ANSWER:
            self.state = "writing"
            self._add(self._without_thoughts(piece.text))

    def _without_thoughts(self, text: str) -> str:
        """What a model thinks before it answers is not part of the answer, and would tell which kind it is."""
        if self._thoughts is None:
            return text
        self._thoughts += text
        start = self._thoughts.lstrip()
        if start.startswith(_OPEN):
            _, closed, rest = start.partition(_CLOSE)
            if not closed:
                return ""
            self._thoughts = None
            return rest.lstrip("\n")
        if _OPEN.startswith(start):
            return ""
        kept, self._thoughts = self._thoughts, None
        return kept

    def _add(self, text: str) -> None:
        if text:
            self._text += text
            self.masker.feed(text)

    def _finish(self, state: AnswerState) -> None:
        if self._thoughts and not self._thoughts.lstrip().startswith(_OPEN):
            kept, self._thoughts = self._thoughts, None
            self._add(kept)
        self.masker.finish()
        self.state = state
