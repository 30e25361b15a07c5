"""How long things will take, from how far they were and when. Pure but for the times passed in."""

from __future__ import annotations

from fcd.wire.admin import Progress

_SOONEST_S = 1.0
"""Nothing is said of what has been watched for less."""


class Eta:
    """Remembers where each thing began, stage by stage."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[str, float, float]] = {}

    def left(self, key: str, progress: Progress, now: float) -> float | None:
        """Seconds that are left of this stage; None while that cannot be known."""
        stage, done, at = self._begun.get(key, ("", 0.0, 0.0))
        if stage != progress.stage or progress.done < done:
            self._begun[key] = (progress.stage, progress.done, now)
            return None
        spent, gained = now - at, progress.done - done
        if spent < _SOONEST_S or gained <= 0 or progress.total <= progress.done:
            return None
        return spent / gained * (progress.total - progress.done)

    def forget(self, keys: set[str]) -> None:
        """Keep only these."""
        for key in self._begun.keys() - keys:
            del self._begun[key]
