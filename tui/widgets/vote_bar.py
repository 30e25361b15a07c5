"""The vote bar: what can be chosen, how long it can be taken back, and what came of it."""

from __future__ import annotations

from textual.content import Content

from tui.actions import bindings
from tui.battle import SIDES, VERDICTS, Battle, figures, rating, why_uncounted
from tui.widgets.chrome import AppStatic

CHOICES = (("vote_a", "A is better"), ("vote_b", "B is better"), ("vote_tie", "tie"), ("vote_bad", "both bad"),
           ("vote_skip", "skip"))  # fmt: skip


class VoteBar(AppStatic, can_focus=True):
    """Draws a battle's vote; the keys are bindings of its own, so that typing in the prompt never votes by letters."""

    BINDINGS = bindings("votes")

    def __init__(self) -> None:
        super().__init__(id="votes")
        self._drawn = Content("")

    def show(self, battle: Battle, undo_s: float) -> None:
        """Draw the vote as it stands; `undo_s` is how long it can still be taken back."""
        phase = battle.phase
        if phase == "final":
            content = self._result(battle)
        elif phase == "voted":
            content = self._voted(battle, undo_s)
        else:
            content = self._choices(battle)
        if not content.is_same(self._drawn):
            self._drawn = content
            self.update(content)

    def _choices(self, battle: Battle) -> Content:
        can, key = battle.can_vote, self.fcd.key
        parts: list[tuple[str, str] | str | Content] = [" "]
        for action, label in CHOICES:
            if can:
                shown = f"[bold $text-accent]{key(action)}[/] {label}"
                parts.append(Content.from_markup(f"[@click=screen.{action}]{shown}[/]"))
            else:
                parts.append((f"{key(action)} {label}", "$foreground 40%"))
            parts.append("   ")
        if self.fcd.readonly:
            words = "The interface is only to read: battles and votes are left out."
        elif battle.phase == "empty":
            words = "Ask anything: both answer, you say which is better."
        else:
            writing, coming = battle.phase == "writing", "Speeds" if battle.by_name else "Names and speeds"
            when = "Vote at any time; it stops both." if writing else "Vote, or ask both another question."
            words = f"{when} {coming} come after the vote."
        return Content.assemble(*parts, "\n", (f" {words}", "$foreground 60%"))

    def _voted(self, battle: Battle, undo_s: float) -> Content:
        assert battle.info is not None
        assert battle.info.vote is not None
        key, coming = self.fcd.key, "speeds" if battle.by_name else "names"
        return Content.assemble(
            (f" Your vote: {VERDICTS[battle.info.vote]}", "bold $text-success"),
            "   ",
            (key("undo_vote"), "bold $text-accent"),
            (f" take it back ({max(0.0, undo_s):.0f} s)   ", "$foreground 80%"),
            (key("reveal"), "bold $text-accent"),
            (f" show the {coming} now", "$foreground 80%"),
            (f"\n The {coming} come when it cannot be taken back any more.", "$foreground 60%"),
        )  # fmt: skip

    def _result(self, battle: Battle) -> Content:
        info, glyphs, key = battle.info, self.fcd.glyphs, self.fcd.key
        assert info is not None
        assert info.vote is not None
        parts: list[tuple[str, str] | str] = []
        width = max(len(battle.name(side)) for side in SIDES)
        for side in SIDES:
            won = info.vote == side
            changed = rating(info, side, glyphs)
            parts += [
                (f" {side.upper()} = ", "$foreground 60%"),
                (f"{battle.name(side):<{width}}", "bold $text-success" if won else "bold"),
                (f"   {changed}" if changed else "", "$text-accent"),
                (f"   {figures(info, side, glyphs)}\n", "$foreground 60%"),
            ]
        words = why_uncounted(info) or f"Your vote: {VERDICTS[info.vote]}."
        parts += [(f" {words}   ", "$foreground 80%"), (key("new_round"), "bold $text-accent"), (" new round", "")]
        return Content.assemble(*parts)
