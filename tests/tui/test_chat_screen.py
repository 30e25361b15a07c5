from __future__ import annotations

import asyncio
import base64
import shlex
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual import events
from textual.pilot import Pilot
from textual.selection import Selection
from textual.widgets import Static

from fcd.errors import ApiError, NotRunning
from fcd.settings import Settings, TuiSettings
from fcd.wire.admin import DaemonEvent, LoadEvent, WorkerInfo
from fcd.wire.chats import ChatMessage
from tests.tui.fake import GUIDE, PROGRESS, FakeDaemon, make_app, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.chat_list import ChatList
from tui.widgets.message import MessageView, TurnView
from tui.widgets.transcript import FEWEST, STEP

Scene = Callable[[FakeDaemon, FcdApp, ChatScreen, "Pilot[None]"], Awaitable[None]]


def play(scene: Scene, size: tuple[int, int] = (80, 24), **options: object) -> None:
    """Run a scene on the Chat screen, connected to a fake daemon."""

    async def main() -> None:
        daemon = FakeDaemon()
        app = make_app(daemon, **options)
        async with app.run_test(size=size) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await scene(daemon, app, screen, pilot)

    asyncio.run(main())


async def ask(screen: ChatScreen, pilot: Pilot[None], text: str) -> None:
    screen.prompt.put(text)
    await pilot.press("enter")


def answer(screen: ChatScreen) -> ChatMessage:
    last = screen.chat.turns()[-1].answer
    assert last is not None
    return last


async def kept(daemon: FakeDaemon) -> list[tuple[str, str, str]]:
    """Role, state and text of every message that the daemon holds of its only conversation."""
    tree = await daemon.chats.tree()
    return [(each.role, each.state, each.content) for each in tree.messages]


def shown(screen: ChatScreen) -> str:
    """What the last answer's body and notice say."""
    view = screen.transcript.views[-1].answer
    rows = "\n".join(line.content.plain.rstrip() for line in view.body.lines)
    notice = view.query_one(".notice")
    return rows + ("\n" + str(notice.visual) if notice.display else "")  # type: ignore[attr-defined]


def waiting(screen: ChatScreen) -> list[str]:
    """What the daemon asks later."""
    return [each.prompt for each in screen.chat.queue]


def test_answer_streams_and_is_kept() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press(*"Hello", "enter")
        await wait_until(pilot, lambda: daemon.requests)
        daemon.say("Good **mor")
        await wait_until(pilot, lambda: "Good" in shown(screen))
        assert screen.busy
        daemon.say("ning**.")
        daemon.end(tokens=5, prompt_tokens=12)
        await wait_until(pilot, lambda: not screen.busy)
        assert shown(screen) == "Good morning."
        assert answer(screen).state == "done"
        assert (answer(screen).prompt_tokens, answer(screen).completion_tokens) == (12, 5)
        assert daemon.requests[0]["messages"] == [{"role": "user", "content": "Hello"}]
        assert await kept(daemon) == [("user", "done", "Hello"), ("assistant", "done", "Good **morning**.")]
        await ask(screen, pilot, "More")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert [message["role"] for message in daemon.requests[1]["messages"]] == ["user", "assistant", "user"]

    play(scene)


def test_escape_stops_and_keeps_what_came() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Count")
        daemon.say("one two")
        await wait_until(pilot, lambda: "two" in shown(screen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: not screen.busy)
        assert daemon.open_answers == 0
        assert (answer(screen).state, answer(screen).content) == ("stopped", "one two")
        assert (await kept(daemon))[-1] == ("assistant", "stopped", "one two")

    play(scene)


def test_retry_keeps_variants_and_walks_them() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Pick")
        daemon.say("first")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("ctrl+r")
        daemon.say("second")
        daemon.end()
        await wait_until(pilot, lambda: len(daemon.requests) == 2 and not screen.busy)
        assert shown(screen) == "second"
        await pilot.press("tab", "left_square_bracket")
        await wait_until(pilot, lambda: shown(screen) == "first")
        assert daemon.requests[0]["messages"] == daemon.requests[1]["messages"]
        await pilot.press("]")
        await wait_until(pilot, lambda: shown(screen) == "second")

    play(scene)


def test_up_on_an_empty_prompt_edits_the_last_question() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Helo")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("up", "left", "l", "enter")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert daemon.requests[1]["messages"][-1]["content"] == "Hello"
        await wait_until(pilot, lambda: [turn.asked for turn in screen.chat.turns()] == ["Hello"])
        assert screen.chat.turns()[0].question_place == (1, 2)
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("tab", "k", "[")
        await wait_until(pilot, lambda: [turn.asked for turn in screen.chat.turns()] == ["Helo"])
        await pilot.press("]")
        await wait_until(pilot, lambda: [turn.asked for turn in screen.chat.turns()] == ["Hello"])

    play(scene)


def test_prompt_takes_several_lines_and_has_a_history() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("a", "ctrl+j", "b", "\\", "enter", "c", "enter", "d")
        await wait_until(pilot, lambda: daemon.requests)
        assert daemon.requests[0]["messages"][0]["content"] == "a\nb\nc"
        assert screen.prompt.text == "d"
        await pilot.press("up")
        assert screen.prompt.text == "a\nb\nc"
        await pilot.press("down")
        assert screen.prompt.text == "d"

    play(scene)


def test_a_line_that_arrives_with_its_enter_is_sent_whole() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        for key in [*"Hello", "enter", *"next"]:
            app.post_message(events.Key(key, key if len(key) == 1 else "\r"))
        await wait_until(pilot, lambda: daemon.requests and screen.prompt.text == "next")
        assert daemon.requests[0]["messages"][0]["content"] == "Hello"

    play(scene)


def test_questions_queue_while_busy_and_come_back_after_a_stop() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "one")
        await ask(screen, pilot, "two")
        await ask(screen, pilot, "three")
        await wait_until(pilot, lambda: waiting(screen) == ["two", "three"])
        daemon.end()
        await wait_until(pilot, lambda: len(daemon.requests) == 2 and waiting(screen) == ["three"])
        assert daemon.requests[1]["messages"][-1]["content"] == "two"
        await wait_until(pilot, lambda: screen.busy)
        await pilot.press("escape")
        await wait_until(pilot, lambda: not screen.busy and screen.prompt.text == "three")
        assert not waiting(screen)
        assert (await daemon.chats.tree()).queue == []

    play(scene)


def test_a_question_that_waits_can_be_taken_back_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("otters\n")

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "one")
        await ask(screen, pilot, "two")
        await ask(screen, pilot, f"/attach {tmp_path / 'notes.txt'}")
        await wait_until(pilot, lambda: screen.attachments)
        await ask(screen, pilot, "three")
        await wait_until(pilot, lambda: waiting(screen) == ["two", "three"])
        assert not screen.attachments
        await pilot.press("up")
        await wait_until(pilot, lambda: screen.prompt.text == "three")
        assert [(each.name, each.data) for each in screen.attachments] == [("notes.txt", "otters\n")]
        assert waiting(screen) == ["two"]
        await ask(screen, pilot, "/unqueue")
        await wait_until(pilot, lambda: screen.prompt.text == "two")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        assert len(daemon.requests) == 1

    play(scene)


def test_what_waits_is_asked_without_its_interface_and_shown_by_the_next() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        app = make_app(daemon)
        async with app.run_test(size=(80, 24)) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            screen = app.screen
            assert isinstance(screen, ChatScreen)
            await ask(screen, pilot, "one")
            await ask(screen, pilot, "two")
            await ask(screen, pilot, "three")
            await wait_until(pilot, lambda: len(waiting(screen)) == 2)
            chat = screen.chat.id
            await pilot.press("ctrl+n")
            await wait_until(pilot, lambda: not screen.chat.id and not waiting(screen))
            await screen.open_chat(chat)
            assert waiting(screen) == ["two", "three"]
        daemon.end()
        again = make_app(daemon)
        async with again.run_test(size=(80, 24)) as pilot:
            await wait_until(pilot, lambda: again.link.state == "up" and len(daemon.requests) == 2)
            screen = again.screen
            assert isinstance(screen, ChatScreen)
            await screen.open_chat(chat)
            await wait_until(pilot, lambda: waiting(screen) == ["three"] and screen.busy)
            for number, said in ((2, "second"), (3, "third")):
                await wait_until(pilot, lambda number=number: len(daemon.requests) == number)  # type: ignore[misc]
                daemon.say(said)
                await wait_until(pilot, lambda said=said: said in shown(screen))  # type: ignore[misc]
                daemon.end()
            await wait_until(pilot, lambda: not screen.busy and not waiting(screen))
            assert [turn.asked for turn in screen.chat.turns()] == ["one", "two", "three"]

    asyncio.run(main())


def test_thoughts_are_folded() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Why")
        daemon.say("<thi")
        daemon.say("nk>it is so</th")
        daemon.say("ink>\n\nBecause.")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        assert shown(screen) == "Because."
        assert answer(screen).reasoning == "it is so"
        thoughts = screen.transcript.views[-1].answer.query_one(".thoughts")
        assert not thoughts.display
        await pilot.press("tab", "space")
        await wait_until(pilot, lambda: thoughts.display)

    play(scene)


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
        await wait_until(pilot, lambda: not screen.busy)
        assert "not there" in shown(screen)
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


def test_commands_do_what_keys_do(tmp_path: object) -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "/set temperature 0.2")
        await ask(screen, pilot, "/system Be brief.")
        await wait_until(pilot, lambda: screen.chat.system == "Be brief.")
        await ask(screen, pilot, "/model guide-mini")
        await wait_until(pilot, lambda: ("load", "guide-mini") in daemon.calls)
        await ask(screen, pilot, "Hi")
        await wait_until(pilot, lambda: daemon.requests)
        request = daemon.requests[0]
        assert (request["model"], request["temperature"]) == ("guide-mini", 0.2)
        assert request["messages"][0] == {"role": "system", "content": "Be brief."}
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        before = screen.chat.id
        await ask(screen, pilot, "/new")
        await wait_until(pilot, lambda: screen.chat.id != before)
        assert (screen.chat.system, screen.chat.model) == ("Be brief.", "guide-mini")
        await ask(screen, pilot, "/modle x")
        await wait_until(pilot, lambda: screen.prompt.text == "/modle x")
        assert len(daemon.requests) == 1

    play(scene)


def test_copying_message_and_code() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Code")
        daemon.say("Here:\n\n```py\na = 1\n```\n\n```py\nb = 2\n```\n")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("tab", "c")
        assert app.clipboard == "a = 1"
        await pilot.press("c")
        assert app.clipboard == "b = 2"
        await pilot.press("k", "y")
        assert app.clipboard == "Code"

    play(scene)


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


def test_keys_can_be_moved_and_mistakes_are_named() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        assert app.key("retry") == "F10"
        await ask(screen, pilot, "Hi")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("f10")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert any("'retri'" in note.message and "'retry'" in note.message for note in app._notifications)

    play(scene, settings=Settings(tui=TuiSettings(keys={"retry": "f10", "retri": "f3"})))


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


def test_help_names_every_action() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        from tui.actions import ACTIONS

        text = app._help().plain
        assert all(action.help in text for action in ACTIONS)
        await pilot.press("f1")
        await wait_until(pilot, lambda: type(app.screen).__name__ == "Help")
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)

    play(scene)


def test_selected_text_is_the_author_s() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("word " * 40 + "end")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        body = screen.transcript.views[-1].answer.body
        assert len(body.lines) > 1
        screen.selections = {body: Selection(None, None)}
        await pilot.pause()
        assert screen.get_selected_text() == "word " * 40 + "end"

    play(scene)


def test_palette_reaches_every_action_of_the_place() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("ctrl+p")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"answer again", "enter")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)

    play(scene)


def test_panel_sets_parameters_and_refuses_nonsense() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"Be kind.", "tab", *"warm", "enter")
        await pilot.pause()
        assert app.screen is not screen
        await pilot.press(*["backspace"] * 4, *"0.5", "enter")
        await wait_until(pilot, lambda: app.screen is screen and screen.chat.system == "Be kind.")
        assert screen.chat.params == {"temperature": 0.5}

    play(scene)


def test_first_start_names_models_that_fit_this_machine() -> None:
    async def main() -> None:
        daemon = FakeDaemon()
        daemon.catalog = daemon.catalog[:2]
        app = make_app(daemon, memory=lambda: (int(10e9), "memory", 1.0))
        async with app.run_test(size=(80, 24)) as pilot:
            welcome = app.screen.query_one(".welcome")
            await wait_until(pilot, lambda: "Qwen/Qwen3-4B" in str(welcome.visual))  # type: ignore[attr-defined]

    asyncio.run(main())


async def listed(pilot: Pilot[None], app: FcdApp, *titles: str) -> None:
    """Until the open list of conversations shows these."""
    await wait_until(pilot, lambda: [info.title for info in app.screen.query_one(ChatList).rows] == list(titles))


def test_earlier_conversations_are_found_by_what_was_said() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await say_something(daemon, ("First", "about otters"))
        second = await say_something(daemon, ("Second", "about stoats"))
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"stoats", "enter")
        await wait_until(pilot, lambda: screen.chat.id == second)

    play(scene)


def test_the_list_names_pins_deletes_and_takes_back() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        for at, words in enumerate(("one", "two", "three")):
            daemon.chats.now = float(at)
            await say_something(daemon, (words, "yes"))
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: app.screen is not screen)
        dialog = app.screen
        await listed(pilot, app, "three", "two", "one")
        await pilot.press("down", "down", "ctrl+t")
        await listed(pilot, app, "one", "three", "two")
        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: app.screen is not dialog)
        await pilot.press(*"Rivers", "enter")
        await wait_until(pilot, lambda: app.screen is dialog)
        await listed(pilot, app, "Rivers", "three", "two")
        await pilot.press("delete")
        await listed(pilot, app, "three", "two")
        await pilot.press("ctrl+z")
        await listed(pilot, app, "Rivers", "three", "two")
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)

    play(scene)


def test_the_open_conversation_can_be_deleted_and_comes_back() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy and screen.chat.id)
        await ask(screen, pilot, "/delete")
        await wait_until(pilot, lambda: not screen.chat.id and not screen.chat.turns())
        assert (await daemon.chats.service.listed(9, 0)).total == 0
        await ask(screen, pilot, "/undelete")
        while not (await daemon.chats.service.listed(9, 0)).total:
            await pilot.pause(0.01)

    play(scene)


def test_the_list_stands_beside_the_chat_where_there_is_room() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: screen.sidebar is not None)
        await ask(screen, pilot, "Hello there")
        daemon.end()
        await listed(pilot, app, "Hello there")
        await wait_until(pilot, lambda: not screen.busy)
        other = await say_something(daemon, ("Other", "yes"))
        daemon.tell(DaemonEvent("chats", name=other, message="created"))
        await wait_until(pilot, lambda: len(app.screen.query_one(ChatList).rows) == 2)
        await pilot.press("ctrl+s", *"Other", "enter")
        await wait_until(pilot, lambda: screen.chat.id == other and app.focused is screen.prompt)
        await ask(screen, pilot, "/sidebar")
        await wait_until(pilot, lambda: screen.sidebar is None)

    play(scene, size=(120, 40))


@pytest.mark.parametrize("fails", [False, True])
def test_the_list_may_go_while_it_asks_what_there_is(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the app leaves: what it asked for comes to a list that has nothing to draw on any more."""

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: screen.sidebar is not None)
        await pilot.pause()
        found = app.screen.query_one(ChatList)
        asked, answered = asyncio.Event(), asyncio.Event()
        client: Any = app.link.connected()
        chats = client.chats

        async def slow(limit: int) -> object:
            asked.set()
            await answered.wait()
            if fails:
                raise NotRunning("The daemon went away.")
            return await chats(limit)

        monkeypatch.setattr(client, "chats", slow)
        worker = found.refresh_rows()
        await asyncio.wait_for(asked.wait(), 10)
        await found.remove_children()
        answered.set()
        await worker.wait()
        await found.refresh_rows().wait()

    play(scene, size=(120, 40))


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""


def test_files_go_with_a_question(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("otters\n")
    (tmp_path / "data.bin").write_bytes(b"\x00\xff\x01")
    (tmp_path / "pic.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "big.txt").write_text("x" * 600_000)

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        def told(words: str) -> bool:
            return any(words in note.message for note in app._notifications)

        for name, words in (
            ("data.bin", "neither text"), ("pic.png", "cannot see"), ("big.txt", "at most"), ("no.txt", "no file"),
        ):  # fmt: skip
            await ask(screen, pilot, f"/attach {tmp_path / name}")
            await wait_until(pilot, lambda words=words: told(words))
        assert not screen.attachments
        await ask(screen, pilot, f"/attach {tmp_path / 'notes.txt'}")
        await wait_until(pilot, lambda: screen.attachments)
        assert "notes.txt 7" in str(screen.query_one("#attached").visual)  # type: ignore[attr-defined]
        await ask(screen, pilot, "What is in it?")
        await wait_until(pilot, lambda: daemon.requests)
        assert daemon.requests[0]["messages"][0]["content"] == "What is in it?\n\nnotes.txt:\n\n```txt\notters\n```"
        assert not screen.attachments
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        await pilot.press("up", "end", "!", "enter")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert "otters" in daemon.requests[1]["messages"][0]["content"]
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy)
        seeing = WorkerInfo(**{**{f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}, "capabilities": ["vision"]})
        daemon.known = [seeing]
        daemon.tell(DaemonEvent("worker", seeing))
        await wait_until(pilot, lambda: app.link.worker_for("guide") == seeing)
        await ask(screen, pilot, f"/attach {tmp_path / 'pic.png'}")
        await wait_until(pilot, lambda: screen.attachments)
        await ask(screen, pilot, "And this?")
        await wait_until(pilot, lambda: len(daemon.requests) == 3)
        part = daemon.requests[2]["messages"][-1]["content"][1]
        assert part["image_url"]["url"].startswith("data:image/png;base64,")
        await wait_until(
            pilot,
            lambda: "pic.png 70 1x1" in str(screen.query(TurnView).last().question.query_one(".notice", Static).visual),
        )

    play(scene)


def test_a_pasted_path_of_an_image_is_attached_and_any_other_text_is_typed(tmp_path: Path) -> None:
    picture = tmp_path / "my cat's picture.png"
    picture.write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "notes.txt").write_text("otters\n")
    seeing = WorkerInfo(**{**{f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}, "capabilities": ["vision"]})

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        daemon.known = [seeing]
        daemon.tell(DaemonEvent("worker", seeing))
        await wait_until(pilot, lambda: app.link.worker_for("guide") == seeing)
        for number, text in enumerate((str(picture), shlex.quote(str(picture)), picture.as_uri() + "\n"), 1):
            screen.prompt.post_message(events.Paste(text))
            await wait_until(pilot, lambda number=number: len(screen.attachments) == number)
        assert screen.prompt.text == ""
        assert (screen.attachments[0].width, screen.attachments[0].media) == (1, "image/png")
        for text in (str(tmp_path / "notes.txt"), f"{picture} and more", "/none.png", "a 'quote"):
            screen.prompt.put("")
            screen.prompt.post_message(events.Paste(text))
            await wait_until(pilot, lambda text=text: screen.prompt.text == text)
        assert len(screen.attachments) == 3

    play(scene)


def test_a_blind_model_names_one_that_sees(tmp_path: Path) -> None:
    (tmp_path / "pic.png").write_bytes(base64.b64decode(PIXEL))

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        fields = {f: getattr(GUIDE, f) for f in GUIDE.__struct_fields__}
        eye = WorkerInfo(**{**fields, "name": "eye-1", "models": ["eye"], "capabilities": ["chat", "vision"]})
        daemon.known = [*daemon.known, eye]
        daemon.tell(DaemonEvent("worker", eye))
        await wait_until(pilot, lambda: app.link.worker_for("eye") == eye)
        await ask(screen, pilot, f"/attach {tmp_path / 'pic.png'}")
        await wait_until(
            pilot,
            lambda: any("guide cannot see images. eye can:" in note.message for note in app._notifications),
        )
        assert not screen.attachments

    play(scene)


def test_presets_are_kept_by_the_daemon_and_taken() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        panel = app.screen
        await pilot.press(*"Be terse.", "tab", *"0.1", "ctrl+e")
        await wait_until(pilot, lambda: app.screen is not panel)
        await pilot.press(*"dry", "enter")
        await wait_until(pilot, lambda: app.screen is panel)
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)
        assert [preset.name for preset in await daemon.chats.service.presets()] == ["dry"]
        await ask(screen, pilot, "/preset dry")
        await wait_until(pilot, lambda: screen.chat.system == "Be terse.")
        assert screen.chat.params == {"temperature": 0.1}
        await ask(screen, pilot, "/system Something else.")
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is not screen)
        panel = app.screen
        await pilot.press("ctrl+o")
        await wait_until(pilot, lambda: app.screen is not panel and app.screen is not screen)
        await pilot.press("enter")
        await wait_until(pilot, lambda: app.screen is panel)
        await pilot.press("ctrl+t")
        await wait_until(pilot, lambda: app.screen is screen and screen.chat.system == "Be terse.")

    play(scene)


def test_export_and_import(tmp_path: Path) -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat = await say_something(daemon, ("Question?", "Answer."))
        await screen.open_chat(chat)
        for name, words in (("a.md", "## User"), ("b.json", '"fcd-chats-1"'), ("c.json sharegpt", '"human"')):
            await ask(screen, pilot, f"/export {tmp_path / name}")
            file = tmp_path / name.split()[0]
            await wait_until(pilot, lambda file=file, words=words: file.exists() and words in file.read_text())
        await ask(screen, pilot, f"/import {tmp_path / 'c.json'}")
        await wait_until(pilot, lambda: any("1 chats taken in" in note.message for note in app._notifications))
        await ask(screen, pilot, f"/import {tmp_path / 'b.json'}")
        await wait_until(pilot, lambda: any("1 known already" in note.message for note in app._notifications))

    play(scene)


def test_a_question_in_the_middle_is_edited_and_its_branch_walked() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat = await say_something(daemon, ("one", "1"), ("two", "2"), ("three", "3"))
        await screen.open_chat(chat)
        await pilot.press("tab", "k", "k", "k", "e")
        assert screen.prompt.text == "two"
        await pilot.press(*" more", "enter")
        daemon.say("2!")
        daemon.end()
        await wait_until(pilot, lambda: daemon.requests and not screen.busy)
        assert [turn.asked for turn in screen.chat.turns()] == ["one", "two more"]
        assert [each["content"] for each in daemon.requests[0]["messages"]] == ["one", "1", "two more"]
        await pilot.press("tab", "k", "left")
        await wait_until(pilot, lambda: [turn.asked for turn in screen.chat.turns()] == ["one", "two", "three"])
        head = screen.transcript.views[1].question.query_one(".head")
        assert "1/2" in str(head.visual)  # type: ignore[attr-defined]

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
