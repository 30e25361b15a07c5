from __future__ import annotations

import asyncio

from textual import events
from textual.pilot import Pilot
from textual.selection import Selection
from textual.widgets import OptionList

from fcd.settings import Settings, TuiSettings
from tests.tui.chat_scene import answer, ask, kept, play, shown
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.chat import ChatScreen


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


def test_context_is_not_empty_while_an_answer_is_written_or_after_it_was_stopped() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        assert " 0/2k" in str(screen.meter.visual)
        await ask(screen, pilot, "Hello")
        daemon.say("Good morning.")
        daemon.end(tokens=5, prompt_tokens=95)
        await wait_until(pilot, lambda: " 100/2k" in str(screen.meter.visual))
        await ask(screen, pilot, "Count")
        daemon.say("one")
        daemon.say(" two")
        await wait_until(pilot, lambda: "two" in shown(screen))
        await wait_until(pilot, lambda: " ~10" in str(screen.meter.visual))
        await pilot.press("escape")
        await wait_until(pilot, lambda: not screen.busy)
        await wait_until(pilot, lambda: " ~102/2k" in str(screen.meter.visual))

    play(scene)


def test_what_cannot_be_done_is_told_and_changes_nothing() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        def said(words: str) -> bool:
            return any(words in note.message for note in app._notifications)

        await pilot.press("ctrl+r")
        await wait_until(pilot, lambda: said("Nothing was asked here yet."))
        await ask(screen, pilot, "/theme light")
        await wait_until(pilot, lambda: app.theme == "light")
        await ask(screen, pilot, "/theme nosuch")
        await wait_until(pilot, lambda: said("There is no theme 'nosuch'"))
        assert app.theme == "light"

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


def test_help_opens_and_closes() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
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


def test_palette_puts_names_that_begin_as_typed_first_and_each_action_on_one_line() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p")
        await wait_until(pilot, lambda: app.screen is not screen)
        options = app.screen.query_one(OptionList)
        assert options.virtual_size.height == options.option_count > 20
        await pilot.press(*"queue")
        await wait_until(pilot, lambda: [each.id for each in options.options] == ["Queue", "Take back"])

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
