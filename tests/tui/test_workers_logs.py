from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from textual.pilot import Pilot
from textual.widgets import Static

from fcd.wire.admin import DaemonEvent, LoadEvent, WorkerInfo
from tests.tui.fake import PROGRESS, FakeDaemon, make_app, wait_until
from tests.tui.test_snapshots import workers
from tui.app import FcdApp
from tui.screens.logs import LogsScreen
from tui.screens.workers import WorkersScreen

Scene = Callable[[FakeDaemon, FcdApp, "Pilot[None]"], Awaitable[None]]


def play(key: str, scene: Scene, **options: object) -> None:
    async def main() -> None:
        daemon = workers()
        app = make_app(daemon, **options)
        async with app.run_test(size=(80, 24)) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            await pilot.press(key)
            await pilot.pause()
            await scene(daemon, app, pilot)

    asyncio.run(main())


def workers_screen(app: FcdApp) -> WorkersScreen:
    screen = app.get_screen_stack("workers")[0]
    assert isinstance(screen, WorkersScreen)
    return screen


def test_one_confirmation_that_names_the_worker() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        await pilot.press("down", "x")
        await wait_until(pilot, lambda: app.screen is not screen)
        assert "gpu-box" in str(app.screen.query_one("Static").visual)  # type: ignore[attr-defined]
        assert "3 requests" in str(app.screen.query_one("Static").visual)  # type: ignore[attr-defined]
        await pilot.press("n")
        await wait_until(pilot, lambda: app.screen is screen)
        assert not daemon.calls
        for key, call in (("x", "stop"), ("r", "restart"), ("u", "unload")):
            await pilot.press(key)
            await wait_until(pilot, lambda: app.screen is not screen)
            await pilot.press("y")
            await wait_until(pilot, lambda call=call: daemon.calls and daemon.calls[-1][0] == call)
        assert daemon.calls == [("stop", "gpu-box"), ("restart", "gpu-box"), ("unload", "vicuna-7b")]

    play("f5", scene)


def test_no_worker_s_log_stands_below_another_s_name() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        names = [worker.name for worker in screen._workers()]
        for name in names:
            daemon.logs[name] = [f"I am {name}."]

        def tail() -> str:
            return str(screen.query_one("#tail", Static).visual).strip()

        await wait_until(pilot, lambda: tail() == f"I am {names[0]}.")
        screen.table.move_cursor(row=1)
        await wait_until(pilot, lambda: names[1] in str(screen.query_one("#facts", Static).visual))
        assert tail() in ("", f"I am {names[1]}.")
        await wait_until(pilot, lambda: tail() == f"I am {names[1]}.")

    play("f5", scene)


def test_readonly_has_no_way_to_change_a_worker() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("x", "r", "u", "l")
        await pilot.pause()
        assert app.screen is workers_screen(app)
        assert not daemon.calls
        assert "stop" not in str(app.screen.query_one("KeyBar").visual)  # type: ignore[attr-defined]

    play("f5", scene, readonly=True)


def test_filter_and_events() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        assert screen.table.row_count == 4
        await pilot.press("slash", *"cuda", "enter")
        await wait_until(pilot, lambda: screen.table.row_count == 2)
        new = WorkerInfo("cuda-9", ["m"], "ready", device="cuda:9")
        daemon.known.append(new)
        daemon.tell(DaemonEvent("worker", new))
        await wait_until(pilot, lambda: screen.table.row_count == 3)
        daemon.known.remove(new)
        daemon.tell(DaemonEvent("worker_gone", name="cuda-9"))
        await wait_until(pilot, lambda: screen.table.row_count == 2)
        await pilot.press("escape")
        await wait_until(pilot, lambda: screen.table.row_count == 4)

    play("f5", scene)


def test_loading_shows_progress_and_failure() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        daemon.gate = asyncio.Event()
        begun = LoadEvent("progress", "guide-mini", progress=PROGRESS.progress)
        daemon.load_script = [begun, LoadEvent("error", error="It does not fit.")]
        await pilot.press("l")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"mini", "enter")
        loads = screen.query_one("#loads")
        await wait_until(pilot, lambda: "guide-mini" in str(loads.visual))  # type: ignore[attr-defined]
        assert ("load", "guide-mini") in daemon.calls
        daemon.gate.set()
        await wait_until(pilot, lambda: any("does not fit" in note.message for note in app._notifications))

    play("f5", scene)


def test_a_folder_s_load_has_one_line_under_the_name_that_it_got() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        path, step = "/models/vicuna", PROGRESS.progress
        daemon.gate = asyncio.Event()
        begun = LoadEvent("progress", "vicuna", progress=step)
        daemon.load_script = [begun, LoadEvent("error", "vicuna", error="It does not fit.")]

        def lines() -> list[str]:
            return [line for line in str(screen.query_one("#loads", Static).visual).splitlines() if "vicuna" in line]

        await pilot.press("l")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*path, "enter")
        await wait_until(pilot, lambda: bool(lines()) and path not in lines()[0])
        daemon.known.append(WorkerInfo("vicuna", ["vicuna"], "loading", progress=step))
        await wait_until(pilot, lambda: screen.table.row_count == 5)
        assert len(lines()) == 1
        daemon.known[-1] = WorkerInfo("vicuna", ["vicuna"], "failed", error="It does not fit.")
        daemon.gate.set()
        await wait_until(pilot, lambda: any("does not fit" in note.message for note in app._notifications))
        await wait_until(pilot, lambda: not lines())

    play("f5", scene)


def test_the_interface_is_left_while_a_model_loads() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        daemon.gate = asyncio.Event()
        daemon.load_script = [LoadEvent("progress", "guide-mini", progress=PROGRESS.progress)]
        await pilot.press("l")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"mini", "enter")
        await wait_until(pilot, lambda: "guide-mini" in str(screen.query_one("#loads", Static).visual))

    play("f5", scene)


def test_enter_opens_the_worker_s_log() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await wait_until(pilot, lambda: isinstance(app.screen, LogsScreen) and app.screen.source == "bad-0")
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        await wait_until(pilot, lambda: len(screen.view.lines) == 2)
        await pilot.press("w")
        await wait_until(pilot, lambda: screen.source == "gpu-box")

    play("f5", scene)


def test_logs_follow_filter_and_jump() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        view = screen.view
        await wait_until(pilot, lambda: len(view.lines) == 40)
        assert view.following
        daemon.logs[""].append("2026-01-02 10:01:00 error   fcd: \x1b[2Jlast")
        await wait_until(pilot, lambda: len(view.lines) == 41)
        assert view.lines[-1].endswith("fcd: [2Jlast")
        await wait_until(pilot, lambda: view.scroll_y == view.max_scroll_y)
        await pilot.press("f", "f", "f")
        await wait_until(pilot, lambda: len(view.shown) == 5)
        await pilot.press("f", "slash", *"request 1", "enter")
        await wait_until(pilot, lambda: len(view.shown) == 11)
        await pilot.press("escape", "e")
        await wait_until(pilot, lambda: not view.following)
        await pilot.press("p")
        await wait_until(pilot, lambda: view.following)
        await pilot.press("up")
        await wait_until(pilot, lambda: not view.following)

    play("f6", scene)


def test_thousands_of_lines_are_bounded() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        screen.view.append([f"info line {number}" for number in range(50_000)])
        await pilot.pause()
        assert len(screen.view.lines) <= 20_000
        assert screen.view.lines[-1] == "info line 49999"

    play("f6", scene)


def test_an_error_with_its_trace_is_one_error() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        trace = ["Traceback (most recent call last):", '  File "a.py", line 1', "    raise error", "ValueError: no"]
        daemon.logs[""] = [
            "2026-01-02 10:00:00 info    fcd: first",
            "2026-01-02 10:00:01 error   fcd: one", *trace,
            "2026-01-02 10:00:02 error   fcd: two", *trace,
            "2026-01-02 10:00:03 info    fcd: last",
            "error: three", "Try it again.",
        ]  # fmt: skip
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        screen.show_source("")
        await wait_until(pilot, lambda: len(screen.view.lines) == 14)
        assert screen.view.errors() == 3
        rows = []
        for _ in range(4):
            await pilot.press("e")
            rows.append(screen.view.lines[screen.view._mark])
        assert [row.rpartition(" ")[2] for row in rows] == ["one", "two", "three", "one"]

    play("f6", scene)
