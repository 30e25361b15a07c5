from __future__ import annotations

import time

from textual.pilot import Pilot

from tests.tui.chat_scene import ask, play, shown
from tests.tui.fake import FakeDaemon, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.message import MessageView
from tui.widgets.transcript import FEWEST, STEP


def test_long_chats_are_windowed_and_older_messages_come_on_scrolling_up() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat = await say_something(daemon, *((f"question {n}", f"answer {n}") for n in range(100)))
        await screen.open_chat(chat)
        await pilot.pause()
        mounted = len(screen.transcript.views)
        assert FEWEST <= mounted <= 12
        assert screen.transcript.following
        assert screen.transcript.max_scroll_y > 0
        await pilot.press("tab", "g")
        await wait_until(pilot, lambda: len(screen.transcript.views) >= mounted + STEP)
        focused = app.focused
        assert isinstance(focused, MessageView)
        await wait_until(pilot, lambda: focused.region.overlaps(screen.transcript.region))

    play(scene)


def test_few_of_many_long_messages_are_mounted_and_a_screen_that_they_do_not_fill_gets_more() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat = await say_something(daemon, *((f"question {n}", f"line {n}\n\n" * 40) for n in range(100)))
        await screen.open_chat(chat)
        await pilot.pause()
        assert len(screen.transcript.views) == FEWEST
        # One word a line: the rows that a guess counts are joined to a few.
        joined = await say_something(daemon, *((f"question {n}", "a\n" * 400) for n in range(20)))
        await screen.open_chat(joined)
        await wait_until(pilot, lambda: screen.transcript.max_scroll_y > 0)
        await pilot.resize_terminal(80, 100)
        await wait_until(pilot, lambda: screen.transcript.size.height > 80 and screen.transcript.max_scroll_y > 0)

    play(scene)


def test_scrolling_up_stays_while_text_comes_and_end_follows_again() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Long")
        daemon.say("line\n\n" * 30)
        transcript = screen.transcript
        await wait_until(pilot, lambda: transcript.max_scroll_y > 20 and transcript.following)
        await pilot.press("pageup")
        await wait_until(pilot, lambda: not transcript.following)
        at = transcript.scroll_y
        daemon.say("more\n\n" * 10)
        await wait_until(pilot, lambda: "more" in shown(screen))
        assert transcript.scroll_y == at
        hint = screen.query_one("#follow")
        await wait_until(pilot, lambda: hint.display and "new lines" in str(hint.visual))  # type: ignore[attr-defined]
        await pilot.press("ctrl+end")
        await wait_until(pilot, lambda: transcript.following)
        assert not hint.display or not screen.busy

    play(scene)


def test_500_messages_open_at_once() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        text = "A paragraph with **bold** words, `code`, and a list:\n\n- one\n- two\n\n```py\na = 1\n```\n"
        chat = await say_something(daemon, *((f"question {n}", text) for n in range(250)))
        await screen.open_chat(chat)  # warm: the first drawing imports what it needs
        await screen.action_new()
        took = []
        for _ in range(3):
            began = time.perf_counter()
            await screen.open_chat(chat)
            await pilot.pause()
            took.append(time.perf_counter() - began)
            assert len(screen.chat.turns()) == 250
        assert min(took) < 1.5, took  # alone on a quiet machine well below 0.3 s

    play(scene)
