"""A scene on the Chat screen: how it is played, and what is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual.pilot import Pilot

from fcd.wire.chats import ChatMessage
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tui.app import FcdApp
from tui.screens.chat import ChatScreen

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
    """What the last answer's body and notice say; nothing while they are being made."""
    views = screen.transcript.views
    if not views or not views[-1].answer.query(".notice"):
        return ""
    view = views[-1].answer
    rows = "\n".join(line.content.plain.rstrip() for line in view.body.lines)
    notice = view.query_one(".notice")
    return rows + ("\n" + str(notice.visual) if notice.display else "")  # type: ignore[attr-defined]


def waiting(screen: ChatScreen) -> list[str]:
    """What the daemon asks later."""
    return [each.prompt for each in screen.chat.queue]
