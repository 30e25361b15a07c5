"""Reading JSON while it is written: where a value ends, and the parts of a call object as soon as they stand."""

from __future__ import annotations

import json
from typing import Literal

_SPACE = " \t\r\n"
_NAME_KEYS = ("name",)
_ARGUMENT_KEYS = ("arguments", "parameters")
_OTHER_KEYS = ("type", "id", "function")
"""Keys that models are known to put beside; a first key besides these says that this is no call."""


class ValueEnd:
    """Finds the end of one JSON value. Its brackets and strings are followed; it is not checked further."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._kind: Literal["", "string", "nested", "plain"] = ""
        self.done = False

    @property
    def fresh(self) -> bool:
        """Nothing of the value was read."""
        return not self._kind

    def feed(self, text: str, start: int = 0) -> int:
        """The position behind the last character from `start` on that belongs to the value."""
        for at in range(start, len(text)):
            if self._take(text[at]):
                self.done = True
                return at if self._kind == "plain" else at + 1
        return len(text)

    def _take(self, char: str) -> bool:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
                return self._depth == 0
            return False
        if self._kind == "plain":
            return char in ",}]" or char in _SPACE
        if char == '"':
            self._in_string = True
            self._kind = self._kind or "string"
        elif char in "{[":
            self._depth += 1
            self._kind = "nested"
        elif char in "}]":
            self._depth -= 1
            return self._depth <= 0
        elif not self._kind:
            self._kind = "plain"
        return False


class CallObject:
    """One `{"name": ..., "arguments": {...}}`, in any order of keys, read as it is written.

    `name` is known as soon as it stands; `take_arguments` gives what is certain of the arguments, once the name is
    known to be one of `names`. An object without arguments has `{}`.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._state: Literal["open", "key", "in_key", "colon", "value", "in_value", "next"] = "open"
        self._key = ""
        self._buffer: list[str] = []
        self._end = ValueEnd()
        self._first = True
        self._arguments: list[str] = []
        self._has_arguments = False
        self.name = ""
        self.raw: list[str] = []
        """Everything that was read, to be given back as text when it turns out to be no call."""
        self.status: Literal["open", "done", "invalid"] = "open"

    def feed(self, text: str, start: int = 0) -> int:
        """Read on; gives the position behind what belongs to the object."""
        at = start
        while at < len(text) and self.status == "open":
            at = self._step(text, at)
        self.raw.append(text[start:at])
        if self.status == "done" and not self.name:
            self.status = "invalid"
        return at

    def take_arguments(self) -> str:
        if not self.name:
            return ""
        found = "".join(self._arguments)
        self._arguments.clear()
        if self.status == "done" and not self._has_arguments:
            self._has_arguments = True
            return "{}"
        return found

    def _step(self, text: str, at: int) -> int:
        char = text[at]
        if self._state in ("in_key", "in_value"):
            return self._inside(text, at)
        if char in _SPACE:
            return at + 1
        if self._state == "open" and char == "{":
            self._state = "key"
        elif self._state == "key" and char == '"':
            self._begin("in_key")
            return at
        elif self._state == "key" and char == "}" and self._first:
            self.status = "done"
        elif self._state == "colon" and char == ":":
            self._state = "value"
        elif self._state == "value" and char not in ",}]:":
            self._begin("in_value")
            return at
        elif self._state == "next" and char == ",":
            self._state = "key"
        elif self._state == "next" and char == "}":
            self.status = "done"
        else:
            self.status = "invalid"
        return at + 1

    def _begin(self, state: Literal["in_key", "in_value"]) -> None:
        self._state = state
        self._buffer = []
        self._end = ValueEnd()

    def _inside(self, text: str, at: int) -> int:
        end = self._end.feed(text, at)
        piece = text[at:end]
        streamed = self._state == "in_value" and self._key in _ARGUMENT_KEYS and self._streams(piece)
        if streamed:
            self._arguments.append(piece)
        else:
            self._buffer.append(piece)
        if self._end.done:
            self._finish_part("" if streamed else "".join(self._buffer))
        return end

    def _streams(self, piece: str) -> bool:
        """Arguments that are an object are handed out as they come; a string of JSON is unwrapped when it is whole."""
        if not self._has_arguments and not self._buffer:
            self._has_arguments = piece.startswith("{")
        return self._has_arguments

    def _finish_part(self, text: str) -> None:
        if self._state == "in_key":
            self._key = _string(text) or ""
            self._state = "colon"
            if self._first and self._key not in (*_NAME_KEYS, *_ARGUMENT_KEYS, *_OTHER_KEYS):
                self.status = "invalid"
            self._first = False
            return
        self._state = "next"
        if self._key in _NAME_KEYS:
            name = _string(text)
            if name is None or name not in self._names or self.name:
                self.status = "invalid"
            else:
                self.name = name
        elif self._key in _ARGUMENT_KEYS and text:
            self._take_whole(text)

    def _take_whole(self, text: str) -> None:
        """Arguments that are no object: null stands for none, a string may hold the object."""
        inner = _string(text)
        if text == "null":
            return
        if inner is not None and _is_object(inner):
            self._arguments.append(inner)
            self._has_arguments = True
        else:
            self.status = "invalid"


def _string(text: str) -> str | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
