"""What the parsers of all families share: the text read so far, the words and calls found in it."""

from __future__ import annotations

from collections.abc import Sequence

from daemon.worker.tools.events import CallArguments, CallBegin, Text, ToolEvent
from daemon.worker.tools.hold import Spacing
from daemon.worker.tools.scan import CallObject


class Reader:
    """A parser takes its text step by step: `_advance` makes one step, and says whether another may follow.

    Args:
        names: the tools on offer; a call of any other is text.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._pending = ""
        self._events: list[ToolEvent] = []
        self._spacing = Spacing()
        self._call: CallObject | None = None
        self._opened_by = ""
        self._begun = False
        self._count = 0

    def feed(self, text: str) -> Sequence[ToolEvent]:
        self._pending += text
        while self._pending and self._advance():
            pass
        return self._take()

    def finish(self) -> Sequence[ToolEvent]:
        self._end()
        rest = self._spacing.finish(called=self._count > 0)
        if rest:
            self._events.append(Text(rest))
        return self._take()

    def _advance(self) -> bool:
        """One step; False when more text is needed."""
        raise NotImplementedError

    def _end(self) -> None:
        """The text is over: say what was held back."""
        raise NotImplementedError

    def _skip(self, count: int) -> None:
        self._pending = self._pending[count:]

    def _say(self, text: str) -> None:
        words = self._spacing.words(text)
        if words:
            self._events.append(Text(words))

    def _say_pending(self, count: int | None = None) -> None:
        count = len(self._pending) if count is None else count
        self._say(self._pending[:count])
        self._skip(count)

    def _begin(self, name: str) -> None:
        self._spacing.call()
        self._events.append(CallBegin(self._count, name))
        self._count += 1

    def _argue(self, text: str) -> None:
        if text:
            self._events.append(CallArguments(self._count - 1, text))

    def _open_object(self, opened_by: str) -> None:
        """A call object is expected now; `opened_by` is the text to give back with it if it is none."""
        self._call, self._opened_by, self._begun = CallObject(self._names), opened_by, False

    def _read_object(self) -> bool | None:
        """Read on in the call object: None while it is open, True when it is a call, False when it is text."""
        call = self._call
        assert call is not None
        self._skip(call.feed(self._pending))
        if call.name and not self._begun and call.status != "invalid":
            self._begun = True
            self._begin(call.name)
        if self._begun:
            self._argue(call.take_arguments())
        if call.status == "open":
            return None
        if call.status == "invalid":
            self._give_back()
            return False
        self._call = None
        return True

    def _give_back(self) -> None:
        """An object that is no call is text, unless it began as one: what has been sent stays sent."""
        call, self._call = self._call, None
        if call is not None and not self._begun:
            self._say(self._opened_by + "".join(call.raw))

    def _take(self) -> list[ToolEvent]:
        events, self._events = self._events, []
        return events
