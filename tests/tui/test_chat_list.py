from __future__ import annotations

import asyncio
from typing import Any

import pytest
from textual.pilot import Pilot

from fcd.errors import NotRunning
from fcd.wire.admin import DaemonEvent
from tests.tui.chat_scene import ask, play
from tests.tui.fake import FakeDaemon, wait_until
from tests.tui.fake_chats import say_something
from tui.app import FcdApp
from tui.screens.chat import ChatScreen
from tui.widgets.chat_list import ChatList


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
        chat = screen.chat.id
        await ask(screen, pilot, "/delete")
        await wait_until(pilot, lambda: not screen.chat.id and not screen.chat.turns())
        assert (await daemon.chats.service.listed(9, 0)).total == 0
        await ask(screen, pilot, "/undelete")
        await wait_until(pilot, lambda: screen.chat.id == chat and len(screen.transcript.views) == 1)
        assert (await daemon.chats.service.listed(9, 0)).total == 1

    play(scene)


def test_pinning_and_taking_back_nothing_say_what_they_did() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await screen.open_chat(await say_something(daemon, ("Hi", "yes")))
        for command, words in (("/pin", "On top"), ("/pin", "No longer on top"), ("/unqueue", "Nothing waits")):
            await ask(screen, pilot, command)
            await wait_until(pilot, lambda words=words: any(words in note.message for note in app._notifications))
            await wait_until(pilot, lambda words=words: screen.chat.info.pinned == (words == "On top"))

    play(scene)


def test_a_deletion_taken_back_takes_nobody_away_from_what_was_begun_meanwhile() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        chat, other = await say_something(daemon, ("Hi", "yes")), await say_something(daemon, ("Other", "yes"))
        await screen.open_chat(chat)
        await ask(screen, pilot, "/delete")
        await wait_until(pilot, lambda: not screen.chat.id)
        await screen.open_chat(other)
        await ask(screen, pilot, "/undelete")
        await wait_until(pilot, lambda: any("It is back" in note.message for note in app._notifications))
        await pilot.pause()
        assert screen.chat.id == other

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
