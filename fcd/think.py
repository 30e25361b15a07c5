"""Tells a model's thoughts from its answer where both come in one stream: `<think>…</think>` before the answer."""

from __future__ import annotations

_OPEN = "<think>"
_CLOSE = "</think>"


class ThinkSplitter:
    """Feed it deltas; it gives (answer, thought) deltas. Tags may be cut anywhere."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def feed(self, delta: str) -> tuple[str, str]:
        text = self._held + delta
        self._held = ""
        if self._state == "start":
            return self._start(text)
        if self._state == "thinking":
            return self._think(text)
        if self._state == "between":
            return self._begin(text), ""
        return text, ""

    def finish(self) -> tuple[str, str]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return ("", held) if self._state == "thinking" else (held, "")

    def _start(self, text: str) -> tuple[str, str]:
        stripped = text.lstrip()
        if not stripped or (_OPEN.startswith(stripped) and len(stripped) < len(_OPEN)):
            self._held = text
            return "", ""
        if stripped.startswith(_OPEN):
            self._state = "thinking"
            return self._think(stripped[len(_OPEN) :].lstrip("\n"))
        self._state = "answer"
        return text, ""

    def _think(self, text: str) -> tuple[str, str]:
        end = text.find(_CLOSE)
        if end >= 0:
            self._state = "between"
            return self._begin(text[end + len(_CLOSE) :]), text[:end]
        keep = _partial(text)
        self._held = text[len(text) - keep :]
        return "", text[: len(text) - keep]

    def _begin(self, text: str) -> str:
        """The answer's beginning, without the empty lines that follow the thoughts."""
        begun = text.lstrip("\n")
        if begun:
            self._state = "answer"
        return begun


def _partial(text: str) -> int:
    """How many characters at the end may be the beginning of the closing tag."""
    for size in range(min(len(_CLOSE) - 1, len(text)), 0, -1):
        if _CLOSE.startswith(text[-size:]):
            return size
    return 0
