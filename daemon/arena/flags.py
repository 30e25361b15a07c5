"""Why a battle does not count although it has a vote."""

from __future__ import annotations

from daemon.arena.masking import names_itself
from daemon.arena.records import StoredBattle, StoredTurn


def flags_of(stored: StoredBattle, turns: list[StoredTurn]) -> list[str]:
    """Why a battle does not count although it has a vote."""
    flags: list[str] = []
    if stored.mode == "blind" and any(
        names_itself(answer.text, model)
        for turn in turns
        for answer, model in ((turn.a, stored.model_a), (turn.b, stored.model_b))
    ):
        flags.append("identity")
    if any(answer.state == "failed" for turn in turns for answer in (turn.a, turn.b)):
        flags.append("failed")
    return flags
