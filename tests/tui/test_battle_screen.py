from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual import events
from textual.pilot import Pilot
from textual.widgets import Static

from fcd.errors import ApiError
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tui.app import FcdApp
from tui.screens.battle import BattleScreen
from tui.widgets.chrome import KeyBar
from tui.widgets.pool_picker import PoolPicker

Scene = Callable[[FakeDaemon, FcdApp, BattleScreen, "Pilot[None]"], Awaitable[None]]


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def play(scene: Scene, size: tuple[int, int] = (120, 40), **options: object) -> None:
    """Run a scene on the Battle screen, connected to a fake daemon."""

    async def main() -> None:
        daemon = FakeDaemon()
        app = make_app(daemon, **options)
        async with app.run_test(size=size) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            await pilot.press("f3")
            await wait_until(pilot, lambda: isinstance(app.screen, BattleScreen))
            screen = app.screen
            assert isinstance(screen, BattleScreen)
            await scene(daemon, app, screen, pilot)

    asyncio.run(main())


async def ask(daemon: FakeDaemon, screen: BattleScreen, pilot: Pilot[None], text: str = "Why?") -> None:
    """Ask, and wait until both sides are being shown."""
    seen = len(daemon.arena.calls)
    screen.prompt.put(text)
    await pilot.press("enter")
    await wait_until(pilot, lambda: any(call[0] == "events" for call in daemon.arena.calls[seen:]))


def said(screen: BattleScreen, side: int) -> str:
    body = screen.panes[side].query(".message.-answer .text").last()
    return "\n".join(line.content.plain.rstrip() for line in body.lines)  # type: ignore[attr-defined]


def bar(screen: BattleScreen) -> str:
    return str(screen.bar.visual)


def everything(app: FcdApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


def test_a_blind_battle_from_question_to_names() -> None:
    clock = Clock()

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        assert daemon.arena.created[0].mode == "blind"
        assert daemon.arena.created[0].prompt == "Why?"
        daemon.arena.write("a", "Because **it")
        daemon.arena.write("b", "- no\n- idea\n")
        await wait_until(pilot, lambda: "Because" in said(screen, 0) and "idea" in said(screen, 1))
        daemon.arena.write("a", " is**.")
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.focused is screen.bar)
        assert said(screen, 0) == "Because it is."
        text = everything(app)
        assert "guide" not in text
        assert "tok" not in text
        assert "Model A" in text
        assert "Model B" in text
        await pilot.press("b")
        await wait_until(pilot, lambda: screen.battle.phase == "voted")
        assert "Your vote: B is better" in bar(screen)
        assert "guide" not in everything(app)
        clock.now = 4.0
        await pilot.pause(0.2)
        assert ("reveal", "battle1") not in daemon.arena.calls
        clock.now = 5.1
        await wait_until(pilot, lambda: screen.battle.phase == "final")
        await wait_until(pilot, lambda: "1043→1057 ±38" in bar(screen))
        assert "guide-mini" in bar(screen)
        assert "412 tok/s" in bar(screen)
        await pilot.press("a", "z")
        await pilot.pause()
        assert [call for call in daemon.arena.calls if call[0] in ("vote", "undo")] == [("vote", "b")]

    play(scene, clock=clock)


def test_arrows_vote_from_the_empty_prompt_while_both_write() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        await pilot.press("left")
        assert screen.battle.phase == "writing", "nothing was said yet"
        daemon.arena.write("a", "half")
        await wait_until(pilot, lambda: screen.battle.can_vote)
        await pilot.press("x", "left", "backspace", "left")
        assert screen.prompt.text == "x"
        assert not [call for call in daemon.arena.calls if call[0] == "vote"]
        await pilot.press("right", "backspace", "down")
        await wait_until(pilot, lambda: ("vote", "tie") in daemon.arena.calls)
        await wait_until(pilot, lambda: screen.battle.phase == "voted" and not screen.busy)
        assert said(screen, 0) == "half"

    play(scene)


def test_a_vote_is_taken_back_and_given_anew() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("b", "x")
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.focused is screen.bar)
        await pilot.press("up")
        await wait_until(pilot, lambda: screen.battle.phase == "voted")
        await pilot.press("z")
        await wait_until(pilot, lambda: screen.battle.phase == "open")
        await pilot.press("a")
        await wait_until(pilot, lambda: screen.battle.phase == "voted")
        await pilot.press("r")
        await wait_until(pilot, lambda: screen.battle.phase == "final")
        assert [call for call in daemon.arena.calls if call[0] != "events"] == [
            ("vote", "both_bad"), ("undo", "battle1"), ("vote", "a"), ("reveal", "battle1"),
        ]  # fmt: skip

    play(scene, clock=Clock())


def test_follow_up_again_and_a_new_round() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot, "One")
        daemon.arena.write("a", "first")
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.battle.phase == "open" and not screen.busy)
        await pilot.press("enter")
        await ask(daemon, screen, pilot, "Two")
        daemon.arena.write("a", "second")
        daemon.arena.done()
        await wait_until(pilot, lambda: said(screen, 0) == "second" and not screen.busy)
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: ("regenerate", "battle1") in daemon.arena.calls)
        await wait_until(pilot, lambda: screen.battle.phase == "writing")
        daemon.arena.write("a", "third")
        daemon.arena.done()
        await wait_until(pilot, lambda: said(screen, 0) == "third" and not screen.busy)
        assert len(screen.panes[0].query(".turn")) == 2
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: not screen.panes[0].query(".turn"))
        await ask(daemon, screen, pilot, "Three")
        assert len(daemon.arena.created) == 2

    play(scene)


def test_escape_stops_and_keeps_what_came() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "half")
        await wait_until(pilot, lambda: said(screen, 0).startswith("half"))
        await pilot.press("escape")
        await wait_until(pilot, lambda: screen.battle.phase == "open" and not screen.busy)
        assert said(screen, 0) == "half"
        assert ("stop", "battle1") in daemon.arena.calls

    play(scene)


def test_side_by_side_by_name_through_the_picker() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+l")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press("space", "n")
        assert app.screen is not screen, "two are needed"
        await pilot.press("down", "space", "n")
        await wait_until(pilot, lambda: app.screen is screen)
        heads = [f"{pane.query_one('.pane-head', Static).visual}".split()[0] for pane in screen.panes]
        assert heads == screen.models
        await ask(daemon, screen, pilot)
        assert daemon.arena.created[0].mode == "named"
        assert len(daemon.arena.created[0].models) == 2
        await wait_until(pilot, lambda: daemon.arena.created[0].models[0] in everything(app))
        assert "Speeds come after the vote" in str(screen.bar.visual)  # the names are there
        await pilot.pause()
        await pilot.press("ctrl+n")
        assert [screen.battle.name("a"), screen.battle.name("b")] == screen.models

    play(scene)


def test_marks_go_to_the_rows_that_keys_in_one_burst_lead_to() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+l")
        await wait_until(pilot, lambda: isinstance(app.screen, PoolPicker))
        for key in ("space", "down", "space", "n"):
            app.post_message(events.Key(key, " " if key == "space" else key if key == "n" else None))
        await wait_until(pilot, lambda: app.screen is screen)
        assert screen.mode == "named"
        assert len(set(screen.models)) == 2

    play(scene)


def test_the_keys_of_votes_go_when_no_vote_is_left() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "x")
        daemon.arena.write("b", "y")
        daemon.arena.done()
        keys = screen.query_one(KeyBar)
        await wait_until(pilot, lambda: screen.focused is screen.bar and "both bad" in str(keys.visual))
        await pilot.press("left")
        await wait_until(pilot, lambda: screen.battle.phase in ("voted", "final"))
        await wait_until(pilot, lambda: "both bad" not in str(keys.visual) and "new round" in str(keys.visual))
        if screen.battle.phase == "voted":
            await pilot.press("z")
            await wait_until(pilot, lambda: "both bad" in str(keys.visual))

    play(scene)


def test_trouble_is_told_in_place_and_the_question_comes_back() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        daemon.arena.refuse = ApiError(409, "A battle needs two models that can answer.", code="too_few_models")
        screen.prompt.put("Why?")
        await pilot.press("enter")
        notice = screen.query_one("#battle-notice")
        await wait_until(pilot, lambda: notice.display)
        assert "two models" in str(notice.visual)
        assert "^l" in str(notice.visual)
        assert screen.prompt.text == "Why?"

    play(scene)


def test_a_battle_goes_on_when_the_daemon_is_back_and_when_the_interface_is() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "one ")
        await wait_until(pilot, lambda: said(screen, 0).startswith("one"))
        daemon.arena.lose()
        daemon.go()
        await wait_until(pilot, lambda: app.link.state == "gone")
        daemon.up = True
        await wait_until(pilot, lambda: app.link.state == "up")
        await wait_until(pilot, lambda: len([call for call in daemon.arena.calls if call[0] == "events"]) == 2)
        daemon.arena.write("a", "two")
        daemon.arena.done()
        await wait_until(pilot, lambda: said(screen, 0) == "one two")
        again = make_app(daemon, now=lambda: 0.0)
        async with again.run_test(size=(80, 24)) as other:
            await wait_until(other, lambda: again.link.state == "up")
            await other.press("f3")
            await wait_until(other, lambda: isinstance(again.screen, BattleScreen) and again.screen.battle.info)
            assert isinstance(again.screen, BattleScreen)
            found = again.screen
            await wait_until(other, lambda: found.battle.phase == "open" and said(found, 0) == "one two")

    play(scene)


def test_one_pane_at_80_columns_and_tab_turns_it_over() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "left one")
        daemon.arena.write("b", "right one")
        await wait_until(pilot, lambda: "left one" in everything(app))
        assert "right one" not in everything(app)
        await pilot.press("tab")
        await wait_until(pilot, lambda: "right one" in everything(app) and "left one" not in everything(app))

    play(scene, size=(80, 24))


def test_readonly_leaves_battles_out() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await pilot.press(*"Why", "enter", "a", "ctrl+l", "ctrl+r")
        await pilot.pause()
        assert not daemon.arena.created
        assert not daemon.arena.calls
        assert app.screen is screen
        assert "only to read" in bar(screen)

    play(scene, readonly=True)


def test_commands_reach_the_votes() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "x")
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.focused is screen.bar)
        await pilot.press("i", *"/vote bad", "enter")
        await wait_until(pilot, lambda: ("vote", "both_bad") in daemon.arena.calls)

    play(scene)


def test_zoom_shows_one_answer_and_the_way_to_the_other() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "left one")
        daemon.arena.write("b", "right one")
        daemon.arena.done()
        await wait_until(pilot, lambda: screen.focused is screen.bar)
        await pilot.press("m")
        await wait_until(pilot, lambda: "right one" not in everything(app) and "tab: Model B" in everything(app))
        await pilot.press("tab")
        await wait_until(pilot, lambda: "right one" in everything(app))
        head = everything(app).splitlines()[1].rstrip()
        assert head.startswith(" Model B")
        assert head.endswith("done")
        assert len(head) > 100
        await pilot.press("m")
        await wait_until(pilot, lambda: "left one" in everything(app) and "right one" in everything(app))

    play(scene)


def test_covered_names_are_ascii_where_all_is() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: BattleScreen, pilot: Pilot[None]) -> None:
        await ask(daemon, screen, pilot)
        daemon.arena.write("a", "I am \u2588\u2588\u2588\u2588\u2588.")
        daemon.arena.done()
        await wait_until(pilot, lambda: "I am #####." in everything(app) and not screen.busy)
        assert everything(app).isascii()

    play(scene, ascii_only=True)
