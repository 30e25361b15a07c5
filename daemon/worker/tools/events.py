"""What a parser of tool calls finds in a model's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer for people."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of a tool begins; calls of one answer count from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments: the pieces of one call make a JSON text."""

    index: int
    text: str


ToolEvent = Text | CallBegin | CallArguments


class ToolParser(Protocol):
    """Reads one completion. What it gives does not depend on how the text is cut into pieces."""

    def feed(self, text: str) -> Sequence[ToolEvent]: ...

    def finish(self) -> Sequence[ToolEvent]:
        """The end of the completion: what was held back."""
        ...
