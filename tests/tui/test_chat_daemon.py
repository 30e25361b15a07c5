from __future__ import annotations

import asyncio

import pytest
from textual.content import Content
from textual.pilot import Pilot

from fcd.errors import ApiError
from fcd.wire.admin import DaemonEvent, LoadEvent, WorkerInfo
from fcd.wire.chats import ChatMessage
from tests.tui.chat_scene import answer, ask, play, shown, waiting
from tests.tui.fake import GUIDE, PROGRESS, FakeDaemon, make_app, wait_until
from tui.app import FcdApp
from tui.chats import Turn
from tui.screens.chat import ChatScreen
from tui.widgets.chat_list import ChatList
from tui.widgets.message import TurnView


@pytest.mark.parametrize(
    ("error", "words", "key"),
    [
        (ApiError(404, "The model 'x' does not exist here.", code="model_not_found"), "does not exist", "^l"),
        (ApiError(400, "Too long.", code="context_length_exceeded"), "Too long.", "^n"),
        (ApiError(503, "Every worker is busy.", code="overloaded"), "busy", "^r"),
    ],
)
def test_errors_stand_where_the_answer_would_be(error: ApiError, words: str, key: str) -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("part")
        daemon.fail(error)
        await wait_until(pilot, lambda: words in shown(screen))
        assert key in shown(screen)
        assert shown(screen).startswith("part")
        assert answer(screen).state == "failed"

    play(scene)


def test_daemon_goes_away_and_comes_back() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("partial answer")
        await wait_until(pilot, lambda: "partial" in shown(screen))
        daemon.go()
        await wait_until(pilot, lambda: app.link.state == "gone" and not screen.busy)
        banner = screen.query_one("Banner")
        await wait_until(pilot, lambda: banner.display)
        assert "F8" in str(banner.visual)  # type: ignore[attr-defined]
        assert answer(screen).content == "partial answer"
        await ask(screen, pilot, "Again")
        # Nothing is busy either before the question has left the prompt: only what is shown tells that it was refused.
        await wait_until(pilot, lambda: "not there" in shown(screen))
        daemon.come()
        await wait_until(pilot, lambda: app.link.state == "up" and not banner.display)
        await wait_until(pilot, lambda: screen.chat.turns()[0].answer.state == "interrupted")  # type: ignore[union-attr]
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        daemon.say("back")
        daemon.end()
        await wait_until(pilot, lambda: shown(screen) == "back")

    play(scene)


def test_model_is_loaded_with_progress_before_the_first_answer() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        daemon.known = []
        daemon.gate = asyncio.Event()
        daemon.load_script = [PROGRESS, LoadEvent("ready", "guide")]
        app = make_app(daemon)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await wait_until(pilot, lambda: ("load", "guide") in daemon.calls)
            await ask(screen, pilot, "Hi")
            await wait_until(pilot, lambda: "67 %" in shown(screen))
            daemon.gate.set()
            daemon.say("Hello")
            daemon.end()
            await wait_until(pilot, lambda: shown(screen) == "Hello")

    asyncio.run(main())


def test_failed_load_is_told_once_and_in_place() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        daemon.known = []
        daemon.load_script = [LoadEvent("error", "guide", error="Out of memory: needs 14 GiB.")]
        app = make_app(daemon)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await wait_until(pilot, lambda: "guide" in app.failed_loads)
            await ask(screen, pilot, "Hi")
            await wait_until(pilot, lambda: "Out of memory" in shown(screen))
            assert "^l" in shown(screen)

    asyncio.run(main())


def test_a_model_that_is_stopped_stays_so_until_it_is_asked_or_chosen() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: screen._warmed == "guide")
        daemon.known = []
        await app.link.refresh()
        app.link_changed.publish(None)
        await pilot.pause()
        assert app.link.worker_for("guide") is None
        await wait_until(pilot, lambda: not screen._loading)
        assert ("load", "guide") not in daemon.calls
        await ask(screen, pilot, "/model guide")
        await wait_until(pilot, lambda: ("load", "guide") in daemon.calls)

    play(scene)


def test_an_answer_goes_on_when_the_interface_is_closed_and_is_shown_by_the_next() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        app = make_app(daemon)
        async with app.run_test(size=(80, 24)) as pilot:
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await wait_until(pilot, lambda: app.link.state == "up")
            await ask(screen, pilot, "Hi")
            daemon.say("part one, ")
            await wait_until(pilot, lambda: "part one" in shown(screen))
            await pilot.press("ctrl+q")
        assert daemon.open_answers == 1
        daemon.say("part two, ")
        again = make_app(daemon)
        async with again.run_test(size=(80, 24)) as pilot:
            screen = again.screen
            assert isinstance(screen, ChatScreen)
            await wait_until(pilot, lambda: again.link.state == "up")
            await pilot.press("ctrl+s")
            await wait_until(pilot, lambda: again.screen.query(ChatList) and again.screen.query_one(ChatList).rows)
            await pilot.press("enter")
            await wait_until(pilot, lambda: screen.chat.id and "part two" in shown(screen))
            assert screen.busy
            daemon.say("part three.")
            daemon.end()
            await wait_until(pilot, lambda: not screen.busy)
            assert shown(screen) == "part one, part two, part three."

    asyncio.run(main())


def test_two_interfaces_see_the_same() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        one, two = make_app(daemon), make_app(daemon)
        async with one.run_test(size=(80, 24)) as first, two.run_test(size=(80, 24)) as second:
            await wait_until(first, lambda: one.link.state == "up")
            await wait_until(second, lambda: two.link.state == "up")
            here, there = one.screen, two.screen
            assert isinstance(here, ChatScreen)
            assert isinstance(there, ChatScreen)
            await ask(here, first, "Hi")
            daemon.say("one ")
            await wait_until(first, lambda: "one" in shown(here))
            await there.open_chat(here.chat.id)
            await wait_until(second, lambda: "one" in shown(there))
            daemon.say("two")
            daemon.end()
            await wait_until(second, lambda: shown(there) == "one two" and not there.busy)
            await wait_until(first, lambda: shown(here) == "one two" and not here.busy)
            await ask(there, second, "More")
            await wait_until(first, lambda: len(here.chat.turns()) == 2 and here.busy)
            await ask(here, first, "Waits")
            await wait_until(first, lambda: waiting(here) == ["Waits"])
            await wait_until(second, lambda: waiting(there) == ["Waits"])
            daemon.say("three")
            daemon.end()
            await wait_until(second, lambda: len(there.chat.turns()) == 3)
            await wait_until(first, lambda: here.busy)
            daemon.end()
            await wait_until(first, lambda: not here.busy)
            await second.press("tab", "r")
            daemon.say("again")
            daemon.end()
            await wait_until(first, lambda: shown(here) == "again" and not here.busy)
            assert here.chat.turns()[-1].answer_place == (1, 2)
            await ask(here, first, "/rename Rivers")
            await wait_until(second, lambda: there.chat.info.title == "Rivers")

    asyncio.run(main())


def test_new_chat_while_writing_leaves_the_old_one_to_the_daemon() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("partial")
        await wait_until(pilot, lambda: "partial" in shown(screen))
        before = screen.chat.id
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: screen.chat.id != before)
        assert not screen.busy
        daemon.say(" whole")
        daemon.end()
        await wait_until(pilot, lambda: daemon.open_answers == 0)
        await screen.open_chat(before)
        await wait_until(pilot, lambda: not screen.busy and shown(screen) == "partial whole")

    play(scene)


def test_worker_events_show_in_the_header() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        header = screen.query_one("Header")
        moved = WorkerInfo(**{**{f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}, "device": "cuda:0"})
        daemon.known = [moved]
        daemon.tell(DaemonEvent("worker", moved))
        await wait_until(pilot, lambda: "cuda:0" in str(header.visual))  # type: ignore[attr-defined]

    play(scene)


def test_an_answer_may_end_before_its_place_is_made() -> None:
    """A view takes a moment to be made, and a fast or refused answer is over by then."""
    question = ChatMessage("q", "user", content="Hi")
    turn = Turn(question, ChatMessage("a", "assistant", parent="q", state="writing"))

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        view = TurnView(turn, app.glyphs, notices=lambda _: Content("It failed."))
        assert turn.answer is not None
        turn.answer.state, turn.answer.content = "failed", "Half an"
        view.answer.notice(Content("early"))
        view.finish()
        await screen.transcript.query_one("#turns").mount(view)
        await wait_until(pilot, lambda: shown(screen) == "Half an\nIt failed.")

    play(scene)
