"""Calls as Hermes and Qwen models write them: `<tool_call>` JSON object `</tool_call>`, between words or alone."""

from __future__ import annotations

from typing import Final, Literal

from daemon.worker.tools.hold import partial_marker
from daemon.worker.tools.reader import Reader

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"


class HermesParser(Reader):
    """See `ToolParser`."""

    _state: Literal["text", "call", "close"] = "text"

    def _advance(self) -> bool:
        if self._state == "text":
            return self._in_text()
        if self._state == "close":
            return self._in_close()
        found = self._read_object()
        if found is None:
            return False
        self._state = "close" if found else "text"
        return True

    def _in_text(self) -> bool:
        at = self._pending.find(OPEN)
        if at >= 0:
            self._say_pending(at)
            self._skip(len(OPEN))
            self._open_object(OPEN)
            self._state = "call"
            return True
        self._say_pending(len(self._pending) - partial_marker(self._pending, (OPEN,)))
        return False

    def _in_close(self) -> bool:
        self._pending = self._pending.lstrip()
        if self._pending.startswith(CLOSE):
            self._skip(len(CLOSE))
        elif CLOSE.startswith(self._pending):
            return False
        self._state = "text"
        return True

    def _end(self) -> None:
        if self._state == "call":
            self._give_back()
        elif self._state == "text":
            self._say_pending()
