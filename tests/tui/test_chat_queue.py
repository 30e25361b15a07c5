from __future__ import annotations

import asyncio
from pathlib import Path

from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from tests.tui.chat_scene import ask, play, shown, waiting
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.shelf import Shelf


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


def drawn(screen: ChatScreen) -> str:
    """What stands above the prompt of what waits."""
    line = screen.query_one("#queued", Static)
    return str(line.content) if line.display else ""


def test_what_waits_stands_above_the_prompt_and_any_of_it_is_edited_or_removed() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await ask(screen, pilot, "one")
        for question in ("two", "three\nand more", "four", "five"):
            await ask(screen, pilot, question)
        await wait_until(pilot, lambda: len(waiting(screen)) == 4 and "1 more" in drawn(screen))
        assert [row.split(maxsplit=1)[1] for row in drawn(screen).split("\n")[:3]] == ["two", "three and more", "four"]
        await pilot.press("ctrl+up")
        await wait_until(pilot, lambda: isinstance(app.screen, Shelf))
        await pilot.press("down", "delete")
        await wait_until(pilot, lambda: waiting(screen) == ["two", "four", "five"])
        assert [each.prompt for each in (await daemon.chats.tree()).queue] == ["two", "four", "five"]
        # The answer ends while the list is open: what is asked now is no longer in it.
        daemon.end()
        await wait_until(pilot, lambda: waiting(screen) == ["four", "five"])
        await wait_until(pilot, lambda: app.screen.query_one(OptionList).option_count == 2)
        await pilot.press("end", "enter")
        await wait_until(pilot, lambda: app.screen is screen and screen.prompt.text != "")
        assert screen.prompt.text in ("four", "five")
        assert len(waiting(screen)) == 1
        screen.prompt.put("")
        await pilot.press("ctrl+up")
        await wait_until(pilot, lambda: isinstance(app.screen, Shelf))
        await pilot.press("delete")
        await wait_until(pilot, lambda: app.screen is screen and not waiting(screen) and not drawn(screen))
        await pilot.press("ctrl+up")
        await wait_until(pilot, lambda: any("Nothing waits" in note.message for note in app._notifications))

    play(scene)
