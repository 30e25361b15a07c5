"""Devices, downloads, tests of workers and servers elsewhere, on the Workers screen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from fcd.errors import ApiError
from fcd.wire.admin import DaemonEvent, LoadEvent, Progress, WorkerInfo
from fcd.wire.devices import DeviceReading
from fcd.wire.downloads import Download
from tests.tui.fake import FakeDaemon, wait_until
from tests.tui.test_workers_logs import play, workers_screen
from tui.app import FcdApp
from tui.devices import DeviceHistory, device_rows
from tui.eta import Eta
from tui.glyphs import ASCII, UNICODE
from tui.widgets.download_dialog import DownloadDialog, download_words

GIB = 2**30


def gpu(number: int, use: float = 0.5, free: int = 12 * GIB) -> DeviceReading:
    return DeviceReading(f"GPU-{number}", "gpu", "NVIDIA H100", 80 * GIB, free, 8 * GIB, use, 64.0, 210.0)


CPU = DeviceReading("cpu", "cpu", "AMD EPYC", 32 * GIB, 20 * GIB, GIB, 0.33)


def shown(app: FcdApp, name: str) -> str:
    widget = app.screen.query_one(name)
    return str(widget.visual) if widget.display else ""  # type: ignore[attr-defined]


def test_rows_of_devices_fit_and_say_what_is_left_out() -> None:
    history = DeviceHistory()
    for step in range(200):
        history.add([*(gpu(number, use=(step + number) % 10 / 10) for number in range(8)), CPU])
    assert len(history.use("GPU-0")) == 90
    for glyphs in (UNICODE, ASCII):
        for width in (80, 100, 120, 200):
            rows = device_rows(history, glyphs, width, most=9)
            assert len(rows) == 9
            assert all(row.cell_length <= width for row in rows)
            assert "GPU 7" in rows[7].plain
            assert "68G/80G" in rows[0].plain
            assert "ours 8.0G" in rows[0].plain
            assert "210 W" in rows[0].plain
            if glyphs is ASCII:
                assert all(row.plain.isascii() for row in rows)
        few = device_rows(history, glyphs, 80, most=3)
        assert len(few) == 3
        assert "7 more" in few[-1].plain
    history.add([CPU])
    assert history.use("GPU-0") == []
    assert len(device_rows(history, UNICODE, 80, most=3)) == 1


def test_what_the_driver_does_not_tell_is_not_made_up() -> None:
    history = DeviceHistory()
    history.add([DeviceReading("GPU-x", "gpu", "A card", 0, 0, 0, note="MIG is on")])
    (row,) = device_rows(history, UNICODE, 80, most=3)
    assert "MIG is on" in row.plain
    assert "%" not in row.plain
    assert "W" not in row.plain.replace("MIG is on", "")


def test_time_that_is_left() -> None:
    eta = Eta()
    assert eta.left("a", Progress("loading", 1, 5), 0.0) is None
    assert eta.left("a", Progress("loading", 1, 5), 0.5) is None
    assert eta.left("a", Progress("loading", 2, 5), 2.0) == pytest.approx(6.0)
    assert eta.left("a", Progress("warming", 0, 5), 3.0) is None  # another stage
    assert eta.left("a", Progress("warming", 5, 5), 9.0) is None  # nothing is left
    lefts = [eta.left("b", Progress("loading", done, 100), done / 10) for done in range(0, 100, 10)]
    known = [left for left in lefts if left is not None]
    assert all(later < sooner for sooner, later in pairwise(known))


def test_devices_come_with_events_and_go_with_the_daemon() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await wait_until(pilot, lambda: "GPU 0" in shown(app, "#devices"))  # read at once
        for _ in range(3):
            daemon.tell(DaemonEvent("devices", devices=[gpu(0), gpu(1), CPU]))
        await wait_until(pilot, lambda: "GPU 1" in shown(app, "#devices"))
        assert "64°C" in shown(app, "#devices")
        assert "33 %" in shown(app, "#devices")
        daemon.go()
        await wait_until(pilot, lambda: shown(app, "#devices") == "")

    play("f5", scene)


def test_a_config_that_cannot_be_used_is_told_with_its_line() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        assert shown(app, "#warnings") == ""
        words = "config.toml is not applied, and what was in force still is: line 3: 'x' is no number"
        daemon.warnings = [words]
        daemon.tell(DaemonEvent("config", message=words))
        await wait_until(pilot, lambda: "line 3" in shown(app, "#warnings"))
        assert any("line 3" in note.message for note in app._notifications)
        daemon.warnings = []
        daemon.tell(DaemonEvent("config", message="config.toml was read again; changed: nothing."))
        await wait_until(pilot, lambda: shown(app, "#warnings") == "")

    play("f5", scene)


def test_download_pause_go_on_and_cancel_by_keys() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        await pilot.press("d")
        await wait_until(pilot, lambda: isinstance(app.screen, DownloadDialog))
        dialog = app.screen
        assert isinstance(dialog, DownloadDialog)
        offers = dialog.query_one(OptionList)
        assert [option.id for option in offers.options] == ["Qwen/Qwen3-4B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"]
        assert "is here" in str(offers.options[2].prompt)
        await pilot.press(*"1.7", "enter")
        await wait_until(pilot, lambda: daemon.calls == [("download", "Qwen/Qwen3-1.7B")])
        await wait_until(pilot, lambda: "12M/s" in str(offers.options[0].prompt).replace("11M", "12M"))
        await pilot.press("enter")
        await wait_until(pilot, lambda: daemon.calls[-1] == ("pause", "Qwen/Qwen3-1.7B"))
        await wait_until(pilot, lambda: "paused" in str(offers.options[0].prompt))
        await pilot.press("enter")
        await wait_until(pilot, lambda: daemon.calls[-1] == ("download", "Qwen/Qwen3-1.7B"))
        await pilot.press(*"someone/else", "enter")  # what is in no list
        await wait_until(pilot, lambda: daemon.calls[-1] == ("download", "someone/else"))
        await pilot.press("ctrl+x")
        await wait_until(pilot, lambda: daemon.calls[-1][0] == "cancel")
        await pilot.press("escape")
        await wait_until(pilot, lambda: app.screen is screen)
        left = next(iter(daemon.bringing))
        await wait_until(pilot, lambda: left in shown(app, "#loads"))
        daemon.bringing[left] = Download(left, "failed", error="The disk is full.")
        await wait_until(pilot, lambda: "The disk is full" in shown(app, "#loads"))

    play("f5", scene, memory=lambda: (10 * GIB, "memory", 1.0))


def test_words_of_downloads() -> None:
    half = Progress("downloading", 5e8, 1e9, "B")
    assert "50 %" in download_words(Download("a/b", "downloading", half, 1e8), UNICODE)
    assert "5.0 s left" in download_words(Download("a/b", "downloading", half, 1e8), UNICODE)
    assert download_words(Download("a/b", "paused", half), ASCII).startswith("paused #######")
    assert download_words(Download("a/b", "downloading"), UNICODE) == "begun"
    assert download_words(Download("a/b", "done"), UNICODE) == "is here"


def test_a_worker_is_asked_for_a_short_answer() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        await pilot.press("down", "t")
        await wait_until(pilot, lambda: daemon.requests)
        assert daemon.requests[-1]["model"] == "vicuna-7b"
        assert "short answer" in shown(app, "#loads")
        daemon.say("Hello there.")
        daemon.end()
        await wait_until(pilot, lambda: any("'Hello there.'" in note.message for note in app._notifications))
        await pilot.press("t")
        await wait_until(pilot, lambda: len(daemon.requests) == 2)
        daemon.fail(ApiError(503, "The worker is full."))
        await wait_until(pilot, lambda: any("is full" in note.message for note in app._notifications))
        await wait_until(pilot, lambda: "short answer" not in shown(app, "#loads"))

    play("f5", scene)


def test_attach_and_forget_a_server() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        await pilot.press("a")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"far:1", "enter")
        assert "begins with http" in shown(app, "#attach-help")
        await pilot.press("home", *"http://", "tab", *"zz-far", "enter")
        await wait_until(pilot, lambda: daemon.calls == [("attach", "http://far:1")])
        await wait_until(pilot, lambda: app.screen is screen and screen.table.row_count == 5)
        await pilot.press("end", "down", "down", "down", "down")
        await wait_until(pilot, lambda: (worker := screen.chosen()) is not None and worker.name == "zz-far")
        await pilot.press("x")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press("y")
        await wait_until(pilot, lambda: daemon.calls[-1] == ("detach", "zz-far"))

    play("f5", scene)


def test_what_failed_stays_with_the_key_that_mends_it() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        facts = shown(app, "#facts")
        assert "Out of memory" in facts
        assert "r start it again" in facts
        daemon.load_script = [LoadEvent("error", error="It does not fit.\nMore.")]
        await pilot.press("l")
        await wait_until(pilot, lambda: app.screen is not screen)
        await pilot.press(*"mini", "enter")
        await wait_until(pilot, lambda: "guide-mini is not loaded: It does not fit." in shown(app, "#loads"))
        assert "l tries again" in shown(app, "#loads")

    play("f5", scene)


def test_states_that_are_not_known_yet_are_shown_too() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        daemon.tell(DaemonEvent("worker", WorkerInfo("sleeper", ["m"], "asleep")))  # type: ignore[arg-type]
        screen = workers_screen(app)
        await wait_until(pilot, lambda: screen.table.row_count == 5)
        assert "1 a" in str(screen.query_one("Header").visual)  # type: ignore[attr-defined]
        assert "asleep" in [str(screen.table.get_cell("sleeper", "STATE")).strip()]

    play("f5", scene)


def test_readonly_shows_downloads_and_changes_none() -> None:
    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = workers_screen(app)
        daemon.bringing["a/b"] = Download("a/b", "downloading", Progress("downloading", 1, 2))
        await pilot.press("d", "a", "x", "r", "u", "l")
        await wait_until(pilot, lambda: "a/b" in shown(app, "#loads"))
        assert app.screen is screen
        assert not daemon.calls
        assert "start it again" not in shown(app, "#facts")

    play("f5", scene, readonly=True)
