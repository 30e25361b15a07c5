"""The prompt of battles: empty, its arrow keys vote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

from tui.actions import keys_of
from tui.widgets.prompt import Prompt

if TYPE_CHECKING:
    from tui.screens.battle import BattleScreen


class BattlePrompt(Prompt):
    """Otherwise as the prompt of chats."""

    def __init__(self, battle: BattleScreen) -> None:
        super().__init__(
            keys_of("prompt", battle.fcd.moved_keys),
            edit_last=lambda: self._walk(-1),
            leave=battle.leave_prompt,
            screen="battle",
            placeholder="Ask both",
        )
        self._battle = battle

    async def _on_key(self, event: events.Key) -> None:
        vote = self._battle.vote_keys.get(event.key)
        if vote is not None and not self.text and self._battle.battle.can_vote:
            event.stop()
            event.prevent_default()
            await self._battle.run_action(f"screen.{vote}")
            return
        await super()._on_key(event)
