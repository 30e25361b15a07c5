"""Text on its way out, with what may still turn out to be a marker held back."""

from __future__ import annotations

from collections.abc import Sequence


def partial_marker(text: str, markers: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of a marker."""
    longest = max(map(len, markers)) - 1
    for size in range(min(longest, len(text)), 0, -1):
        tail = text[-size:]
        if any(marker.startswith(tail) for marker in markers):
            return size
    return 0


def find_first(text: str, markers: Sequence[str]) -> tuple[int, str] | None:
    """The earliest marker and where it stands; the longest of those that stand there."""
    found = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if not found:
        return None
    at, _, marker = min(found)
    return at, marker


class Spacing:
    """Whitespace around calls belongs to their form, not to the answer: it goes out only between words."""

    def __init__(self) -> None:
        self._held = ""
        self._after_call = False

    def words(self, text: str) -> str:
        """What to send of a piece of text."""
        text = self._held + text
        self._held = ""
        kept = text.rstrip()
        if self._after_call:
            kept, text = kept.lstrip(), text.lstrip() if kept else text
        if not kept:
            self._held = "" if self._after_call else text
            return ""
        self._after_call = False
        self._held = text[len(kept) :]
        return kept

    def call(self) -> None:
        """A call begins here."""
        self._held = ""
        self._after_call = True

    def finish(self, *, called: bool) -> str:
        """What to send at the end."""
        held, self._held = self._held, ""
        return "" if called else held
