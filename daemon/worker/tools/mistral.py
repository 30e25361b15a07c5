"""Calls as Mistral models write them: `[TOOL_CALLS]` and a list of objects, or `[TOOL_CALLS]name[ARGS]{...}` each."""

from __future__ import annotations

from typing import Final, Literal

from daemon.worker.tools.hold import find_first, partial_marker
from daemon.worker.tools.reader import Reader
from daemon.worker.tools.scan import ValueEnd

CALLS: Final = "[TOOL_CALLS]"
ARGS: Final = "[ARGS]"
CALL_ID: Final = "[CALL_ID]"
_LONGEST_NAME: Final = 256


class MistralParser(Reader):
    """See `ToolParser`."""

    _state: Literal["text", "open", "item", "call", "next", "name", "arguments"] = "text"
    _said = ""
    """What was read since the marker, to be given back when no call comes of it."""
    _name = ""
    _end_of_value: ValueEnd

    def _advance(self) -> bool:
        state = self._state
        if state == "text":
            return self._in_text()
        if state == "call":
            found = self._read_object()
            if found is None:
                return False
            self._state = "next" if found else "text"
            return True
        if state == "name":
            return self._in_name()
        if state == "arguments":
            return self._in_arguments()
        return self._in_list()

    def _in_text(self) -> bool:
        at = self._pending.find(CALLS)
        if at >= 0:
            self._say_pending(at)
            self._skip(len(CALLS))
            self._said = CALLS
            self._state = "open"
            return True
        self._say_pending(len(self._pending) - partial_marker(self._pending, (CALLS,)))
        return False

    def _in_list(self) -> bool:
        """Between the parts of a list of objects."""
        char = self._pending[0]
        if char.isspace():
            self._take_char()
        elif self._state == "open" and char == "[":
            self._take_char()
            self._state = "item"
        elif self._state == "open" and char != "{":
            self._state = "name"
        elif self._state in ("open", "item") and char == "{":
            self._open_object(self._said)
            self._said = ""
            self._state = "call"
        elif self._state == "next" and char == ",":
            self._skip(1)
            self._said = ""
            self._state = "item"
        elif self._state == "next" and char == "]":
            self._skip(1)
            self._to_text("")
        else:
            self._to_text(self._said)
        return True

    def _in_name(self) -> bool:
        found = find_first(self._pending, (ARGS, CALLS))
        end = len(self._pending) if found is None else found[0]
        possible = end < _LONGEST_NAME and "\n" not in self._pending[:end]
        if found is None and possible:
            return False
        name = self._pending[:end].split(CALL_ID)[0].strip()
        if not possible or found is None or found[1] != ARGS or name not in self._names:
            self._to_text(self._said)
            return True
        self._name = name
        self._said += self._pending[: end + len(ARGS)]
        self._skip(end + len(ARGS))
        self._end_of_value = ValueEnd()
        self._state = "arguments"
        return True

    def _in_arguments(self) -> bool:
        if self._end_of_value.fresh:
            char = self._pending[0]
            if char.isspace():
                self._take_char()
                return True
            if char != "{":
                self._to_text(self._said)
                return True
            self._said = ""
            self._begin(self._name)
        end = self._end_of_value.feed(self._pending)
        self._argue(self._pending[:end])
        self._skip(end)
        if not self._end_of_value.done:
            return False
        self._to_text("")
        return True

    def _take_char(self) -> None:
        self._said += self._pending[0]
        self._skip(1)

    def _to_text(self, said: str) -> None:
        self._said = ""
        self._state = "text"
        self._say(said)

    def _end(self) -> None:
        if self._state == "call":
            self._give_back()
        elif self._state != "next":
            self._say(self._said)
            self._say_pending()
