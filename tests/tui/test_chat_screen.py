from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from textual import events
from textual.pilot import Pilot
from textual.selection import Selection

from fcd.errors import ApiError, NotRunning
from fcd.settings import Settings, TuiSettings
from fcd.wire.admin import DaemonEvent, LoadEvent, WorkerInfo
from tests.tui.fake import GUIDE, PROGRESS, FakeDaemon, MemoryChats, make_app, wait_until
from tui.app import FcdApp
from tui.chats import Turn, Variant, new_chat
from tui.screens.chat import ChatScreen
from tui.widgets.message import MessageView
from tui.widgets.transcript import WINDOW

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


def answer(screen: ChatScreen) -> Variant:
    return screen.chat.turns[-1].variant


def shown(screen: ChatScreen) -> str:
    """What the last answer's body and notice say."""
    view = screen.transcript.views[-1].answer
    rows = "\n".join(line.content.plain.rstrip() for line in view.body.lines)
    notice = view.query_one(".notice")
    return rows + ("\n" + str(notice.visual) if notice.display else "")  # type: ignore[attr-defined]


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
        await wait_until(pilot, lambda: app.chats.load(screen.chat.id) is not None)
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
        assert (answer(screen).state, answer(screen).text) == ("stopped", "one two")
        await wait_until(pilot, lambda: app.chats.load(screen.chat.id) is not None)

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
        assert len(screen.chat.turns) == 1
        assert [variant.question for variant in screen.chat.turns[0].variants] == ["Helo", "Hello"]

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
        await wait_until(pilot, lambda: len(screen.queue) == 2)
        daemon.end()
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        assert daemon.requests[1]["messages"][-1]["content"] == "two"
        await pilot.press("escape")
        await wait_until(pilot, lambda: not screen.busy)
        assert screen.prompt.text == "three"
        assert not screen.queue

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


@pytest.mark.parametrize(
    ("error", "words", "key"),
    [
        (ApiError(404, "The model 'x' does not exist here.", code="model_not_found"), "does not exist", "^l"),
        (ApiError(400, "Too long.", code="context_length_exceeded"), "Too long.", "^n"),
        (ApiError(503, "Every worker is busy.", code="overloaded"), "busy", "^r"),
        (NotRunning("The daemon does not answer."), "does not answer", "^r"),
    ],
)
def test_errors_stand_where_the_answer_would_be(error: ApiError | NotRunning, words: str, key: str) -> None:
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
        assert answer(screen).text == "partial answer"
        await ask(screen, pilot, "Again")
        await wait_until(pilot, lambda: not screen.busy)
        assert "not there" in shown(screen)
        daemon.up = True
        await wait_until(pilot, lambda: app.link.state == "up" and not banner.display)
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
            assert not daemon.requests
            daemon.gate.set()
            await wait_until(pilot, lambda: daemon.requests)
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
        assert screen.chat.system == "Be brief."
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
        chat = new_chat("guide")
        chat.turns = [Turn([Variant(f"question {n}", text=f"answer {n}", state="done")]) for n in range(100)]
        await screen.open_chat(chat)
        await pilot.pause()
        assert len(screen.transcript.views) == WINDOW
        assert screen.transcript.following
        await pilot.press("tab", "g")
        await wait_until(pilot, lambda: len(screen.transcript.views) > WINDOW)
        focused = app.focused
        assert isinstance(focused, MessageView)
        assert focused.region.overlaps(screen.transcript.region)

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


def test_leaving_keeps_the_partial_answer() -> None:
    chats = MemoryChats()

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("partial")
        await wait_until(pilot, lambda: "partial" in shown(screen))
        await pilot.press("ctrl+q")

    play(scene, chats=chats)
    variant = next(iter(chats.saved.values())).turns[0].variant
    assert (variant.text, variant.state) == ("partial", "stopped")


def test_new_chat_while_writing_keeps_the_old_one() -> None:
    chats = MemoryChats()

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "Hi")
        daemon.say("partial")
        await wait_until(pilot, lambda: "partial" in shown(screen))
        before = screen.chat.id
        await pilot.press("ctrl+n")
        await wait_until(pilot, lambda: screen.chat.id != before)
        await wait_until(pilot, lambda: before in chats.saved)
        assert chats.saved[before].turns[0].variant.text == "partial"
        assert not screen.busy
        await pilot.press("ctrl+s", "enter")
        await wait_until(pilot, lambda: screen.chat.id == before)
        assert shown(screen) == "partial"

    play(scene, chats=chats)


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
        await wait_until(pilot, lambda: app.screen is screen)
        assert (screen.chat.system, screen.chat.params) == ("Be kind.", {"temperature": 0.5})

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


def test_earlier_conversations_are_found_by_what_was_said() -> None:
    chats = MemoryChats()
    for number, (question, text) in enumerate((("First", "about otters"), ("Second", "about stoats"))):
        chat = new_chat("guide")
        chat.id = f"{number}"
        chat.turns.append(Turn([Variant(question, text=text, state="done")]))
        chats.save(chat)

    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+s")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"stoats", "enter")
        await wait_until(pilot, lambda: screen.chat.id == "1")

    play(scene, chats=chats)
