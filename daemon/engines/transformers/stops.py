"""Stop strings over a stream of text: nothing that may still become one is given out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class StopStrings:
    """Feed text, get back what is safe to show.

    When several stop strings occur in what is held, the one that begins first wins; of two that begin at the same
    place, the one that was named first.
    """

    stops: tuple[str, ...]
    include: bool = False
    held: str = ""
    matched: str | None = None

    def feed(self, text: str) -> str:
        """The text that can be given out now; sets `matched` when a stop string is complete."""
        if not self.stops:
            return text
        if self.matched is not None:
            return ""
        held = self.held + text
        found = [(place, order) for order, stop in enumerate(self.stops) if (place := held.find(stop)) >= 0]
        if found:
            place, order = min(found)
            # A longer stop that begins earlier may still be growing; only what is complete ends the answer.
            self.matched = self.stops[order]
            self.held = ""
            return held[: place + len(self.matched)] if self.include else held[:place]
        keep = self._overlap(held)
        self.held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What is still held when the answer ends for another reason."""
        held, self.held = self.held, ""
        return held

    def _overlap(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = 0
        for stop in self.stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
