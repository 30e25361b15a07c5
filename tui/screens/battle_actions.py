"""What the keys and /commands of the Battle screen do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import work

from fcd.errors import FcdError
from fcd.wire.arena import Outcome
from tui.battle import OUTCOMES, SIDES, Battle
from tui.commands import parse_command

if TYPE_CHECKING:
    from textual.screen import Screen

    from tui.screens.battle import BattleScreen

    _Base = Screen[None]
else:
    _Base = object

SAMPLING = ("temperature", "top_p", "max_tokens", "seed")
"""Parameters that a battle takes."""


class BattleActions(_Base):
    """Mixed into BattleScreen; holds no state of its own."""

    @property
    def _me(self) -> BattleScreen:
        return self  # type: ignore[return-value]

    async def run_text_command(self, text: str) -> None:
        """Carry out a /command."""
        me = self._me
        command = parse_command(text, "battle")
        if command is None or isinstance(command, str):
            me.notify(command or "A command has one line.", severity="warning", markup=False)
            return
        if command.action.id == "vote":
            self._vote_by_word(command.argument)
        elif command.action.id == "theme" and command.argument:
            me.fcd.use_theme(command.argument)
        elif not me.check_action(command.action.id, ()):
            me.notify("The interface is only to read.", markup=False)
        else:
            target = "app" if command.action.where == "everywhere" else "screen"
            await self.run_action(f"{target}.{command.action.id}")

    def _vote_by_word(self, word: str) -> None:
        outcome = OUTCOMES.get(word.lower())
        if outcome is None:
            self._me.notify("/vote takes a, b, tie, bad or skip.", severity="warning", markup=False)
        else:
            self.vote_for(outcome)

    def vote_for(self, outcome: Outcome) -> None:
        self._me.give_vote(outcome)

    def action_vote(self) -> None:
        self._me.set_focus(self._me.bar)

    def action_vote_a(self) -> None:
        self.vote_for("a")

    def action_vote_b(self) -> None:
        self.vote_for("b")

    def action_vote_tie(self) -> None:
        self.vote_for("tie")

    def action_vote_bad(self) -> None:
        self.vote_for("both_bad")

    def action_vote_skip(self) -> None:
        self.vote_for("skip")

    @work(group="vote")
    async def action_undo_vote(self) -> None:
        me = self._me
        if me.battle.phase == "voted":
            await me.call(lambda client, battle: client.undo(battle))
        elif me.battle.phase == "final":
            me.notify("The names were shown: the vote stays.", timeout=3, markup=False)

    def action_reveal(self) -> None:
        self._me.show_names()

    @work(group="stop")
    async def action_stop_battle(self) -> None:
        me = self._me
        if me.battle.phase == "writing":
            await me.call(lambda client, battle: client.battle_stop(battle))
        elif me.busy:
            me.workers.cancel_group(me, "battle")
        elif me.focused is me.bar:
            me.set_focus(me.prompt)

    def action_again(self) -> None:
        me, info = self._me, self._me.battle.info
        if info is None or not info.turns:
            me.notify("There is nothing yet that could be answered again.", markup=False)
        elif me.busy:
            me.notify(f"Both are still writing; {me.fcd.key('stop_battle')} stops them.", markup=False)
        elif me.battle.phase != "open":
            me.notify(f"This round has its vote; {me.fcd.key('new_round')} begins another.", markup=False)
        else:
            me.follow(lambda client: client.battle_regenerate(info.id))

    def action_new_round(self) -> None:
        self.start_round()
        self._me.set_focus(self._me.prompt)

    def start_round(self) -> None:
        """Another battle; one that is still written is stopped."""
        me = self._me
        if me.battle.phase == "writing":
            self._abandon()
        me.workers.cancel_group(me, "battle")
        if me.battle.info is not None:
            me.rounds += 1
        me.battle = self._no_battle()
        me.say(None)
        me.draw()

    def _no_battle(self) -> Battle:
        return Battle(self._me.models if self._me.mode == "named" else ())

    def _abandon(self) -> None:
        info = self._me.battle.info
        if info is not None:
            self._stop_quietly(info.id)

    @work(group="abandon")
    async def _stop_quietly(self, battle: str) -> None:
        try:
            await self._me.fcd.link.connected().battle_stop(battle)
        except FcdError as error:
            self._me.notify(error.message, severity="warning", markup=False)

    @work(exclusive=True, group="picker")
    async def action_pool(self) -> None:
        from tui.widgets.pool_picker import PoolPicker

        me = self._me
        try:
            models = await me.fcd.link.connected().models()
        except FcdError as error:
            me.failed(error)
            return
        chosen = await me.fcd.push_screen_wait(PoolPicker(models, me.models, me.fcd.glyphs))
        if chosen is None:
            return
        me.mode, me.models = chosen
        if me.battle.info is not None:
            self.start_round()
        else:
            me.battle = self._no_battle()
        me._drawn = ()
        me.draw()
        me.set_focus(me.prompt)

    @work(exclusive=True, group="picker")
    async def action_battle_panel(self) -> None:
        from tui.widgets.pickers import Panel

        me = self._me
        result = await me.fcd.push_screen_wait(Panel(me.system, me.params, names=SAMPLING))
        if result is not None:
            me.system, me.params = result
            if me.battle.info is not None:
                me.notify("From the next round on.", timeout=3, markup=False)

    def action_copy_both(self) -> None:
        me, info = self._me, self._me.battle.info
        if info is None or not info.turns:
            return
        parts = [f"{me.battle.name(side)}:\n{getattr(info.turns[-1], side).text}" for side in SIDES]
        me.fcd.copy_to_clipboard("\n\n".join(parts))
        me.notify("Copied both answers.", timeout=2, markup=False)

    def action_zoom(self) -> None:
        self._me.toggle_class("-zoom")
        self._me.draw()

    @property
    def single(self) -> bool:
        """There is one answer on the screen."""
        return self._me.has_class("-narrow") or self._me.has_class("-zoom")

    def leave_prompt(self) -> None:
        """Tab in the prompt."""
        if self.single and self._me.focused is self._me.prompt and self._me.battle.info is None:
            return
        if self.single:
            self._turn_over()
        else:
            self._me.set_focus(self._me.bar)

    def action_other_pane(self) -> None:
        if self.single:
            self._turn_over()
        else:
            self._me.set_focus(self._me.prompt)

    def _turn_over(self) -> None:
        self._me.side = 1 - self._me.side
        self._me.draw()

    def action_vote_prompt(self) -> None:
        self._me.set_focus(self._me.prompt)

    def scroll_both(self, pages: int) -> None:
        """Both answers move together."""
        for pane in self._me.panes:
            if pages < 0:
                pane.scroller.scroll_page_up(animate=False)
            else:
                pane.scroller.scroll_page_down(animate=False)
