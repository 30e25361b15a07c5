"""From cumulative texts, as FastChat's frames carry them, to what is new in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_BROKEN = "\ufffd"


class Token(msgspec.Struct, frozen=True):
    """One generated token with its log-probability; FastChat tells no alternatives."""

    text: str
    logprob: float


class CumulativeText:
    """One answer's text so far.

    A worker's text may become shorter again, or end in U+FFFD while a character is incomplete: nothing is given out
    that the next frame could take back, as far as that can be known, and nothing is given out twice. Stop strings are
    cut at their first occurrence, and what could be the beginning of one is held back.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._given = 0
        self.stopped_by: str | None = None
        """The stop string that ended it."""

    @property
    def length(self) -> int:
        """How many characters were given out."""
        return self._given

    def feed(self, text: str, *, final: bool = False) -> str:
        """What is new in `text`, which is the whole answer so far."""
        if self.stopped_by is not None:
            return ""
        cut, stop = self._first_stop(text)
        if stop is not None:
            text, self.stopped_by = text[:cut], stop
        elif not final:
            text = text.rstrip(_BROKEN)
            text = text[: len(text) - self._held(text)]
        new = text[self._given :]
        self._given += len(new)
        return new

    def _first_stop(self, text: str) -> tuple[int, str | None]:
        """The one that is complete first, however the text was cut into frames."""
        found = [(position, stop) for stop in self._stops if (position := text.find(stop)) >= 0]
        return min(found, key=lambda each: (each[0] + len(each[1]), each[0])) if found else (-1, None)

    def _held(self, text: str) -> int:
        """How many characters at the end could be the beginning of a stop string."""
        most = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), most, -1):
                if text.endswith(stop[:length]):
                    most = length
                    break
        return most


def tokens_of(logprobs: Any, seen: int) -> list[Token]:
    """The tokens after the first `seen` of a frame's cumulative log-probabilities; empty when it has none."""
    if not isinstance(logprobs, dict):
        return []
    texts, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not isinstance(texts, list) or not isinstance(values, list):
        return []
    pairs = list(zip(texts, values, strict=False))[seen:]
    return [Token(str(text), float(value)) for text, value in pairs if isinstance(value, (int, float))]
