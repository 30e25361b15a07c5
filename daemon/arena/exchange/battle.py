"""What goes in and out of files: a battle with its vote, and the marks by which it is known again."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from daemon.arena.records import StoredBattle, StoredTurn, StoredVote
from fcd.wire.arena import Outcome

VOTE_TYPES: dict[str, Outcome] = {
    "leftvote": "a", "rightvote": "b", "tievote": "tie", "bothbad_vote": "both_bad",
}  # fmt: skip
"""FastChat's log to ours."""
WINNERS: dict[str, Outcome] = {
    "model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "both_bad", "both_bad": "both_bad",
}  # fmt: skip
"""FastChat's cleaned battles to ours."""
OWN_FORMAT = "fcd-arena-1"


class Battle(msgspec.Struct):
    """A battle with its vote, as it goes in and out."""

    stored: StoredBattle
    turns: list[StoredTurn]
    vote: StoredVote
    language: str = ""


class Refused(Exception):
    """A record that is not taken in; the argument says why, in a word."""


def voter_mark(voter: str) -> str:
    """Tells voters apart without telling who they are: FastChat's logs hold addresses, which are not kept."""
    plain = voter.removeprefix("import:").removeprefix("arena_user_")
    if re.fullmatch(r"[0-9a-f]{16}", plain):
        return plain
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def digest(*parts: Any) -> str:
    encoded = msgspec.json.encode([msgspec.to_builtins(part) for part in parts])
    return hashlib.sha256(encoded).hexdigest()
