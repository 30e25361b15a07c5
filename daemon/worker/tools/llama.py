"""Calls as Llama 3 models write them: the whole answer is a JSON object, or one stands behind `<|python_tag|>`."""

from __future__ import annotations

from typing import Final, Literal

from daemon.worker.tools.hold import partial_marker
from daemon.worker.tools.reader import Reader

TAG: Final = "<|python_tag|>"
_SEPARATORS: Final = ";,"


class LlamaParser(Reader):
    """See `ToolParser`. Further calls may follow the first, parted by `;`."""

    _state: Literal["start", "text", "call", "after"] = "start"
    _passed = ""
    """What stands between two objects: text, unless another call follows."""

    def _advance(self) -> bool:
        if self._state == "call":
            found = self._read_object()
            if found is None:
                return False
            self._state = "after" if found else "text"
            return True
        if self._state == "text":
            return self._in_text()
        return self._before_object()

    def _before_object(self) -> bool:
        """At the beginning, or behind a call: spaces, separators, the tag, then an object."""
        char = self._pending[0]
        if char == "{":
            self._open_object(self._passed)
            self._state = "call"
            self._passed = ""
        elif char.isspace() or (self._state == "after" and char in _SEPARATORS):
            self._passed += char
            self._skip(1)
        elif self._pending.startswith(TAG):
            self._passed += TAG
            self._skip(len(TAG))
        elif TAG.startswith(self._pending):
            return False
        else:
            self._to_text()
        return True

    def _to_text(self) -> None:
        passed, self._passed = self._passed, ""
        self._state = "text"
        self._say(passed)

    def _in_text(self) -> bool:
        at = self._pending.find(TAG)
        if at >= 0:
            self._say_pending(at)
            self._state = "after" if self._count else "start"
            return True
        self._say_pending(len(self._pending) - partial_marker(self._pending, (TAG,)))
        return False

    def _end(self) -> None:
        if self._state == "call":
            self._give_back()
            return
        if self._state != "after" or self._passed.strip(_SEPARATORS).strip():
            self._say(self._passed)
        self._passed = ""
        self._say_pending()
