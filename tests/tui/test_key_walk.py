"""Every action of the table, by its keys alone: what it does is seen on the screen or at the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import Pilot

from fcd.settings import Settings, TuiSettings
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.test_snapshots import fight, workers
from tui.actions import ACTIONS, BY_ID, bindings, keys_shown
from tui.app import FcdApp
from tui.glyphs import UNICODE
from tui.screens.arena import ArenaScreen
from tui.screens.battle import BattleScreen
from tui.screens.chat import ChatScreen
from tui.screens.logs import LogsScreen
from tui.screens.workers import WorkersScreen
from tui.widgets.prompt import Prompt

SCREENS = {
    "chat": ChatScreen, "battle": BattleScreen, "arena": ArenaScreen, "workers": WorkersScreen, "logs": LogsScreen,
}  # fmt: skip
WHERE = {"prompt": "chat", "messages": "chat", "votes": "battle", "everywhere": "chat"}
Seen = Callable[[FcdApp, FakeDaemon], object]
Before = tuple[str, ...]


Scene = Callable[[FakeDaemon, FcdApp, "Pilot[None]"], Awaitable[None]]


def walk(scene: Scene, daemon: FakeDaemon, **options: Any) -> None:
    async def main() -> None:
        app = make_app(daemon, memory=lambda: (10 * 2**30, "memory", 1.0), **options)
        async with app.run_test(size=(100, 30)) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            await scene(daemon, app, pilot)

    asyncio.run(main())


def text(app: FcdApp, name: str) -> str:
    return str(app.screen.query_one(name).visual)  # type: ignore[attr-defined]


def shown(app: FcdApp) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def modal(app: FcdApp) -> bool:
    return app.screen.is_modal


def called(kind: str) -> Seen:
    return lambda app, daemon: any(call[0] == kind for call in daemon.calls)


def test_no_action_is_without_a_key_or_command_and_each_has_its_method() -> None:
    for action in ACTIONS:
        assert action.keys or action.command, action.id
        owners = [FcdApp] if action.where == "everywhere" else [SCREENS[WHERE.get(action.where, action.where)]]
        if action.where == "prompt":
            continue  # the prompt reads its keys itself
        assert any(hasattr(owner, f"action_{action.id}") for owner in owners), action.id


def test_f1_names_every_key_of_every_action() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("f1")
        await wait_until(pilot, lambda: modal(app))
        text = app.screen.query_one("Static")
        await wait_until(pilot, lambda: str(text.visual))  # type: ignore[attr-defined]
        lines = str(text.visual).splitlines()  # type: ignore[attr-defined]
        assert max(len(line) for line in lines) <= text.size.width == 71
        for action in ACTIONS:
            keys, command = keys_shown(action, {}, UNICODE), f"/{action.command}" if action.command else ""
            end = next(at for at, line in enumerate(lines) if line.endswith(f"({action.id})"))
            start = f"  {action.help.split()[0]} "
            at = next(at for at in range(end, -1, -1) if start in lines[at])
            left, words = lines[at].split(start, 1)
            assert left.split() == [*keys.split(), *([command] if command else [])]
            column = len(left) + 2  # what does not fit goes on in its column
            assert all(len(line) - len(line.lstrip()) == column for line in lines[at + 1 : end + 1])
            words = " ".join([words, *(line.strip() for line in lines[at + 1 : end + 1])])
            assert start.lstrip() + words == f"{action.help} ({action.id})"

    walk(scene, FakeDaemon())


def test_no_key_of_a_screen_is_taken_by_the_prompt() -> None:
    """A field for text has bindings of its own, and the one that has the focus is asked first."""
    taken = {
        key.strip(): binding.action
        for kind in Prompt.__mro__
        for binding in kind.__dict__.get("BINDINGS", ())
        for key in (binding.key if isinstance(binding, Binding) else binding[0]).split(",")
    }
    lost = [
        (binding.id, key, taken[key])
        for where in ("chat", "battle")
        for binding in bindings(where)  # type: ignore[arg-type]
        if isinstance(binding, Binding) and not binding.priority
        for key in binding.key.split(",")
        if key in taken
    ]
    assert lost == []


EVERYWHERE: dict[str, Seen] = {
    "help": lambda app, daemon: modal(app),
    "go_chat": lambda app, daemon: isinstance(app.screen, ChatScreen),
    "go_battle": lambda app, daemon: isinstance(app.screen, BattleScreen),
    "go_arena": lambda app, daemon: isinstance(app.screen, ArenaScreen),
    "go_workers": lambda app, daemon: isinstance(app.screen, WorkersScreen),
    "go_logs": lambda app, daemon: isinstance(app.screen, LogsScreen),
    "palette": lambda app, daemon: modal(app),
    "theme": lambda app, daemon: app.theme == "light",
}


@pytest.mark.parametrize("start", SCREENS)
def test_what_is_everywhere_works_on_every_screen(start: str) -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        for name, seen in EVERYWHERE.items():
            app.theme = "dark"
            await pilot.press(BY_ID[f"go_{start}"].keys)
            await wait_until(pilot, lambda: isinstance(app.screen, SCREENS[start]))
            await pilot.press(BY_ID[name].keys)
            await wait_until(pilot, lambda seen=seen: seen(app, daemon))
            if modal(app):
                await pilot.press("escape")
                await wait_until(pilot, lambda: not modal(app))

    walk(scene, FakeDaemon(), settings=Settings(tui=TuiSettings(theme="dark")))


def test_leave_and_start_daemon() -> None:
    assert {action.id for action in ACTIONS if action.where == "everywhere"} == {*EVERYWHERE, "leave", "start_daemon"}

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        daemon.go()
        await wait_until(pilot, lambda: app.link.state == "gone")
        daemon.up = True
        await pilot.press("f8")
        await wait_until(pilot, lambda: app.link.state == "up")
        await pilot.press("ctrl+q")
        await wait_until(pilot, lambda: app._exit)

    walk(scene, FakeDaemon())


WORKERS: dict[str, tuple[Before, Before, Seen]] = {
    "load_worker": ((), ("escape",), lambda app, daemon: modal(app)),
    "unload_worker": (("down",), ("y",), lambda app, daemon: modal(app)),
    "stop_worker": (("down",), ("y",), lambda app, daemon: modal(app)),
    "restart_worker": (("down",), ("y",), lambda app, daemon: modal(app)),
    "downloads": ((), ("escape",), lambda app, daemon: modal(app)),
    "test_worker": ((), (), lambda app, daemon: daemon.requests),
    "attach_worker": ((), ("escape",), lambda app, daemon: modal(app)),
    "worker_log": ((), ("f5",), lambda app, daemon: isinstance(app.screen, LogsScreen) and app.screen.source),
    "filter_workers": ((), ("escape",), lambda app, daemon: app.focused is app.screen.query_one("#worker-filter")),
    "sort_workers": ((), (), lambda app, daemon: any("Sorted" in note.message for note in app._notifications)),
}


def test_workers() -> None:
    assert {action.id for action in ACTIONS if action.where == "workers"} == set(WORKERS)

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("f5")
        for name, (before, after, seen) in WORKERS.items():
            for key in BY_ID[name].keys.split(","):
                if key == "shift+l":
                    continue  # how some terminals tell the capital that is tried already
                await wait_until(pilot, lambda: isinstance(app.screen, WorkersScreen))
                await pilot.press(*before, key)
                await wait_until(pilot, lambda seen=seen: seen(app, daemon))
                await pilot.press(*after)
        await wait_until(pilot, lambda: isinstance(app.screen, WorkersScreen))
        for kind in ("unload", "stop", "restart"):
            await wait_until(pilot, lambda kind=kind: called(kind)(app, daemon))

    walk(scene, workers())


def logs(app: FcdApp) -> LogsScreen:
    assert isinstance(app.screen, LogsScreen)
    return app.screen


LOGS: dict[str, tuple[Before, Before, Seen]] = {
    "filter_logs": (
        (),
        (*"request 1", "enter"),
        lambda app, daemon: app.focused is app.screen.query_one("#log-filter"),
    ),
    "next_match": ((), (), lambda app, daemon: not logs(app).view.following),
    "next_error": (("escape",), (), lambda app, daemon: "error" in text(app, "#log-state")),
    "pause": ((), (), lambda app, daemon: "following" in text(app, "#log-state")),
    "level": ((), ("f", "f", "f"), lambda app, daemon: "info and up" in text(app, "#log-state")),
    "copy_log": ((), (), lambda app, daemon: "request 39" in app.clipboard),
    "next_source": ((), (), lambda app, daemon: logs(app).source == "bad-0"),
}


def test_logs() -> None:
    assert {action.id for action in ACTIONS if action.where == "logs"} == set(LOGS)

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("f6")
        await wait_until(pilot, lambda: isinstance(app.screen, LogsScreen) and len(app.screen.view.lines) == 40)
        for name, (before, after, seen) in LOGS.items():
            await pilot.press(*before, BY_ID[name].keys)
            await wait_until(pilot, lambda seen=seen: seen(app, daemon))
            await pilot.press(*after)

    walk(scene, workers())


ARENA: dict[str, tuple[Before, Before, Seen]] = {
    "open_row": ((), ("escape",), lambda app, daemon: modal(app)),
    "heat": ((), (), lambda app, daemon: app.screen.view == "heat"),  # type: ignore[attr-defined]
    "show_votes": ((), (), lambda app, daemon: app.screen.view == "votes"),  # type: ignore[attr-defined]
    "to_board": ((), (), lambda app, daemon: app.screen.view == "board"),  # type: ignore[attr-defined]
    "filters": ((), ("escape",), lambda app, daemon: modal(app)),
    "export_votes": ((), ("escape",), lambda app, daemon: modal(app)),
    "import_votes": ((), ("escape",), lambda app, daemon: modal(app)),
}


def test_arena() -> None:
    assert {action.id for action in ACTIONS if action.where == "arena"} == set(ARENA)

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("f4")
        await wait_until(pilot, lambda: isinstance(app.screen, ArenaScreen) and app.screen.board)
        for name, (before, after, seen) in ARENA.items():
            await wait_until(pilot, lambda: isinstance(app.screen, ArenaScreen))
            await pilot.press(*before, BY_ID[name].keys)
            await wait_until(pilot, lambda seen=seen: seen(app, daemon))
            await pilot.press(*after)

    walk(scene, FakeDaemon())


def test_editor_and_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "edit"
    script.write_text('#!/bin/sh\nprintf "%s and more" "$(cat "$1")" > "$1.new"; mv "$1.new" "$1"\n')
    script.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(script))

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await pilot.press(*"words", "ctrl+g")  # no terminal to lend here
        await wait_until(pilot, lambda: any("did not work" in note.message for note in app._notifications))
        assert screen.prompt.text == "words"
        monkeypatch.setattr(app, "suspend", contextlib.nullcontext)
        await pilot.press("ctrl+g")
        await wait_until(pilot, lambda: screen.prompt.text == "words and more")
        await pilot.press("enter")
        await wait_until(pilot, lambda: screen.busy)
        daemon.say("The answer.")
        daemon.end()
        await wait_until(pilot, lambda: not screen.busy and "The answer." in shown(app))
        await pilot.press("f7")
        await wait_until(pilot, lambda: "The answer." in app.clipboard)

    walk(scene, FakeDaemon())

    async def battle(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await fight(pilot, daemon)
        daemon.arena.done()
        await pilot.pause()
        await pilot.press("f7")
        await wait_until(pilot, lambda: "browser tab" in app.clipboard and "Paging" in app.clipboard)

    walk(battle, FakeDaemon())


def test_every_other_place_has_a_walk_of_its_own() -> None:
    """Chat, messages and battles are walked by the tests of their screens, which press the same keys."""
    here = Path(__file__).parent
    walks = [*sorted(here.glob("test_chat_*.py")), here / "test_battle_screen.py"]
    pressed = "".join(walk.read_text(encoding="utf-8") for walk in walks) + inspect.getsource(test_editor_and_copies)
    missing = [
        action.id
        for action in ACTIONS
        if action.where in ("prompt", "chat", "messages", "battle", "votes")
        and not any(f'"{key}"' in pressed for key in action.keys.split(","))
        and f"/{action.command}" not in pressed
        and f"action_{action.id}" not in pressed
    ]
    assert missing == []
