"""A battle as the interface knows it: what the daemon said last, and what has been written since. No drawing here.

The daemon names nobody before a vote is final, so there is nothing here to hide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fcd.wire.arena import BattleEvent, BattleInfo, Outcome, Side
from tui import formats
from tui.glyphs import Glyphs

Phase = Literal["empty", "writing", "open", "voted", "final"]
SIDES: tuple[Side, Side] = ("a", "b")

OUTCOMES: dict[str, Outcome] = {"a": "a", "b": "b", "tie": "tie", "bad": "both_bad", "skip": "skip"}
"""Words of /vote."""
VERDICTS: dict[Outcome, str] = {
    "a": "A is better", "b": "B is better", "tie": "tie", "both_bad": "both bad", "skip": "skipped",
}  # fmt: skip
_FLAGS = {
    "identity": "an answer named its model",
    "failed": "an answer broke off",
    "named": "the models were known",
}
_OVER = ("done", "stopped", "failed")


class Battle:
    """At most one battle; None before its first prompt. `names` are those of a and b where they were chosen."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self.info: BattleInfo | None = None
        self._names = tuple(names)

    def take(self, info: BattleInfo) -> None:
        """The daemon's own word replaces what was put together here."""
        self.info = info

    def apply(self, event: BattleEvent) -> None:
        """One event of the battle's stream."""
        if event.type == "battle" and event.battle is not None:
            self.info = event.battle
        if self.info is None:
            return
        if event.type == "end":
            self.info.running = False
        elif event.side is not None and event.turn < len(self.info.turns):
            answer = getattr(self.info.turns[event.turn], event.side)
            if event.type == "delta":
                answer.text += event.text
                answer.state = "writing"
            else:
                answer.state, answer.error = event.type, event.error

    @property
    def phase(self) -> Phase:
        info = self.info
        if info is None or not (info.turns or info.vote):
            return "empty"
        if info.vote is not None:
            return "final" if info.final else "voted"
        return "writing" if info.running else "open"

    @property
    def can_vote(self) -> bool:
        """Something was said, and no vote was given."""
        if self.info is None or self.phase not in ("writing", "open"):
            return False
        return any(turn.a.text or turn.b.text or turn.a.error or turn.b.error for turn in self.info.turns)

    def name(self, side: Side) -> str:
        """`Model A` until the daemon names it, but where it was chosen by name."""
        if self.info is None and self._names:
            return self._names[SIDES.index(side)]
        known = (self.info.model_a if side == "a" else self.info.model_b) if self.info else ""
        return known or f"Model {side.upper()}"

    @property
    def by_name(self) -> bool:
        """The models were chosen, and are known from the start."""
        return self.info.mode == "named" if self.info else bool(self._names)

    def state(self, side: Side) -> str:
        """In a word, what a side is doing."""
        if self.info is None or not self.info.turns:
            return ""
        answer = getattr(self.info.turns[-1], side)
        return "done" if self.info.final and answer.state not in _OVER else str(answer.state)


def figures(info: BattleInfo, side: Side, glyphs: Glyphs) -> str:
    """Speed and rating of one side, of all turns together; empty where the daemon tells none."""
    stats = [answer.stats for turn in info.turns if (answer := getattr(turn, side)).stats is not None]
    tokens = sum(each.completion_tokens for each in stats)
    spent = sum(each.completion_tokens / each.tokens_per_second for each in stats if each.tokens_per_second > 0)
    waits = [each.ttft_s for each in stats if each.ttft_s > 0]
    parts = [f"{formats.count(tokens)} tok"] if tokens else []
    parts += [f"{formats.rate(tokens / spent)} tok/s"] if spent > 0 else []
    parts += [f"ttft {formats.seconds(sum(waits) / len(waits))}"] if waits else []
    return f" {glyphs.separator} ".join(parts)


def rating(info: BattleInfo, side: Side, glyphs: Glyphs) -> str:
    """What the vote did to one side's rating: `1043→1057 ±38`."""
    model = info.model_a if side == "a" else info.model_b
    change = next((change for change in info.ratings if change.model == model), None)
    if change is None:
        return ""
    moved = f"{change.before:.0f}{glyphs.to}{change.after:.0f}"
    return f"{moved} {glyphs.plus_minus}{change.margin:.0f}" if change.margin else moved


def why_uncounted(info: BattleInfo) -> str:
    """Why a final vote is on no board; empty when it is."""
    if info.rated or not info.final:
        return ""
    if info.vote == "skip":
        return "Skipped: not counted."
    reasons = [_FLAGS.get(flag, flag) for flag in info.flags]
    if info.mode == "named" and not reasons:
        reasons = [_FLAGS["named"]]
    return f"Not counted on the board: {' and '.join(reasons)}." if reasons else "Not counted on the board."
