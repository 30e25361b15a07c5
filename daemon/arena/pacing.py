"""How much of two answers may be shown at a moment, so that neither's speed can be seen.

Both sides are shown up to the same character. It moves at the speed of the slower side, in writing so far; begins when
both have begun; and goes on at that speed when the shorter answer is over, whichever side that was. So what a voter
sees, first to last, is one speed, and it is the same whichever of the two models is the slow one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_SHORTEST_S = 0.25
"""A speed is taken over at least this long: the first burst says little."""


@dataclass
class Side:
    """One answer's progress: characters ready to be shown, and when it began and ended (monotonic seconds)."""

    length: int = 0
    began: float | None = None
    ended: float | None = None

    def grow(self, length: int, now: float) -> None:
        if length > 0 and self.began is None:
            self.began = now
        self.length = length

    def end(self, now: float) -> None:
        if self.ended is None:
            self.ended = now

    @property
    def is_due(self) -> bool:
        """It has begun, or will never."""
        return self.began is not None or self.ended is not None

    def speed(self, now: float) -> float:
        """Characters per second; infinite for an answer that is empty for good."""
        if self.began is None:
            return float("inf")
        until = now if self.ended is None else self.ended
        return self.length / max(until - self.began, _SHORTEST_S)


@dataclass
class Pacer:
    """`advance` says up to which character both sides may be shown."""

    a: Side = field(default_factory=Side)
    b: Side = field(default_factory=Side)
    position: float = 0.0
    _last: float | None = None

    def advance(self, now: float) -> int:
        if not (self.a.is_due and self.b.is_due):
            return 0
        elapsed = 0.0 if self._last is None else max(0.0, now - self._last)
        self._last = now
        longest = max(self.a.length, self.b.length)
        here = min(self.position + elapsed * min(self.a.speed(now), self.b.speed(now)), longest)
        for side in (self.a, self.b):
            if side.ended is None:
                here = min(here, side.length)
        self.position = max(self.position, here)
        return int(self.position)

    def shown(self, side: Side) -> int:
        return min(int(self.position), side.length)

    def is_over(self, side: Side) -> bool:
        """Everything of it is shown, and nothing more will come. Both sides are due before either is over."""
        return self.a.is_due and self.b.is_due and side.ended is not None and int(self.position) >= side.length
