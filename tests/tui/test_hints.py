"""What stands at the bottom of a window is one line where the terminal has 80 columns."""

from __future__ import annotations

from typing import Any

from textual.pilot import Pilot
from textual.widgets import Static

from fcd.wire.chats import Preset
from tests.tui.chat_scene import ask, play, waiting
from tests.tui.fake import FakeDaemon, wait_until
from tui.app import FcdApp
from tui.screens.arena import ArenaScreen
from tui.screens.battle import BattleScreen
from tui.screens.chat import ChatScreen
from tui.screens.workers import WorkersScreen

MODES = {"f2": ChatScreen, "f3": BattleScreen, "f4": ArenaScreen, "f5": WorkersScreen}
WINDOWS: dict[str, tuple[Any, ...]] = {
    "queue": ("f2", ["ctrl+up"]),
    "model": ("f2", ["ctrl+l"]),
    "panel": ("f2", ["ctrl+t"]),
    "presets": ("f2", ["ctrl+t"], ["ctrl+o"]),
    "keep as preset": ("f2", ["ctrl+t"], ["x", "ctrl+e"]),
    "chats": ("f2", ["ctrl+s"]),
    "name": ("f2", "rename_chat"),
    "attach a file": ("f2", ["ctrl+o"]),
    "export": ("f2", "export_chat"),
    "import": ("f2", "import_chats"),
    "palette": ("f2", ["ctrl+p"]),
    "battle": ("f3", ["ctrl+l"]),
    "battle settings": ("f3", ["ctrl+t"]),
    "filters": ("f4", ["f"]),
    "arena export": ("f4", ["e"]),
    "arena import": ("f4", ["i"]),
    "load": ("f5", ["l"]),
    "downloads": ("f5", ["d"]),
    "attach a server": ("f5", ["a"]),
}


def test_hints_are_one_line() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, screen: ChatScreen, pilot: Pilot[None]) -> None:
        await daemon.chats.service.put_preset("terse", Preset("Be terse.", {"temperature": 0.1}))
        await ask(screen, pilot, "one")
        await ask(screen, pilot, "two")
        await wait_until(pilot, lambda: waiting(screen) == ["two"])
        wrapped = dict[str, str]()
        for window, (mode, *steps) in WINDOWS.items():
            await pilot.press(mode)
            await wait_until(pilot, lambda mode=mode: isinstance(app.screen, MODES[mode]))
            for depth, keys in enumerate(steps, 2):
                if isinstance(keys, str):  # a command
                    await screen.run_action(f"screen.{keys}")
                else:
                    await pilot.press(*keys)
                await wait_until(pilot, lambda depth=depth: len(app.screen_stack) == depth)
            hints = list(app.screen.query(".dialog-hint").results(Static))
            await wait_until(pilot, lambda hints=hints: any(str(hint.visual) for hint in hints))
            await pilot.pause()
            wrapped |= {
                f"{window} {number}": str(hint.visual) for number, hint in enumerate(hints) if hint.size.height > 1
            }
            for _ in steps:
                await pilot.press("escape")
            await wait_until(pilot, lambda: len(app.screen_stack) == 1)
        assert wrapped == {}

    play(scene)
