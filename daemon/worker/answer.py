"""One completion's text taken apart while it comes: thinking, words, calls of tools. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from daemon.worker.reasoning import Piece, ReasoningSplitter
from daemon.worker.tools.events import CallArguments, CallBegin, Text, ToolEvent, ToolParser


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of thinking."""

    text: str


AnswerEvent = Thought | ToolEvent


class AnswerReader:
    """Reads one completion. What it gives does not depend on how the text is cut into pieces.

    Args:
        calls_only: the form of the answer has no words beside its calls, so what is none is one that was cut off.
    """

    def __init__(
        self, splitter: ReasoningSplitter | None, parser: ToolParser | None, *, calls_only: bool = False
    ) -> None:
        self._splitter = splitter
        self._calls_only = calls_only
        self._parser = parser
        self.reasoning_tokens = 0
        self.called = False

    def feed(self, text: str, tokens: int = 0) -> list[AnswerEvent]:
        """What is certain with this piece, which `tokens` tokens made."""
        if self._splitter is None:
            return self._words([("content", text)])
        thinking = self._splitter.thinking
        pieces = self._splitter.feed(text)
        if thinking or self._splitter.thinking:
            self.reasoning_tokens += tokens
        return self._words(pieces)

    def finish(self) -> list[AnswerEvent]:
        """What was held back at the end."""
        events = self._words(self._splitter.finish()) if self._splitter is not None else []
        if self._parser is not None:
            events += self._note(self._parser.finish())
        return events

    def _words(self, pieces: Iterable[Piece]) -> list[AnswerEvent]:
        events: list[AnswerEvent] = []
        for kind, text in pieces:
            if kind == "reasoning":
                events.append(Thought(text))
            elif self._parser is None:
                events += [Text(text)] if text else []
            else:
                events += self._note(self._parser.feed(text))
        return events

    def _note(self, events: Iterable[ToolEvent]) -> list[ToolEvent]:
        found = [event for event in events if not (self._calls_only and isinstance(event, Text))]
        self.called = self.called or any(isinstance(event, CallBegin) for event in found)
        return found


@dataclass
class ReadCall:
    name: str
    arguments: str = ""


@dataclass
class ReadAnswer:
    """A whole answer, put together."""

    text: str = ""
    thinking: str = ""
    calls: list[ReadCall] = field(default_factory=list)

    def add(self, events: Iterable[AnswerEvent]) -> None:
        for event in events:
            if isinstance(event, Thought):
                self.thinking += event.text
            elif isinstance(event, Text):
                self.text += event.text
            elif isinstance(event, CallBegin):
                self.calls.append(ReadCall(event.name))
            elif isinstance(event, CallArguments):
                self.calls[event.index].arguments += event.text
