"""Logs that grow by thousands of lines a second: what is done for them is bounded by what is new."""

from __future__ import annotations

import asyncio
import time

import pytest
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tests.tui.fake import FakeDaemon, wait_until
from tests.tui.test_workers_logs import play
from tui.app import FcdApp
from tui.loglines import fresh_lines
from tui.screens.logs import LogsScreen
from tui.widgets.log_view import LIMIT, LogView

LINES = 5_000


class Page(App[None]):
    def compose(self) -> ComposeResult:
        yield LogView()


def lines(begin: int, count: int = LINES) -> list[str]:
    levels = {number: "error" for number in range(begin, begin + count) if number % 500 == 0}
    return [
        f"2026-01-02 10:00:00 {levels.get(number, 'info')} fcd.http: request {number} of worker w{number % 7}"
        for number in range(begin, begin + count)
    ]


@pytest.mark.parametrize("words", ["", "worker w3"])
def test_five_thousand_lines_a_second_leave_most_of_the_second(words: str) -> None:
    async def main() -> None:
        app = Page()
        async with app.run_test(size=(120, 40)) as pilot:
            view = app.query_one(LogView)
            view.append(lines(0, LIMIT))
            view.filter(level=0, words=words)
            spent = []
            for second in range(8):
                begun = time.process_time()
                view.append(lines(LIMIT + second * LINES))
                await pilot.pause()
                spent.append(time.process_time() - begun)
            assert sorted(spent)[len(spent) // 2] < 0.4, spent
            assert len(view.lines) <= LIMIT
            assert view.lines[-1].endswith(f"request {LIMIT + 8 * LINES - 1} of worker w{(LIMIT + 8 * LINES - 1) % 7}")
            assert all("w3" in line for line in view.shown) or not words
            assert view.go_to(error=True)
            await pilot.pause()
            painted = [strip.text for strip in app.screen._compositor.render_strips()]
            assert any("error" in row for row in painted)

    asyncio.run(main())


def test_what_is_new_is_found_without_comparing_everything() -> None:
    known, fetched = lines(0, 2000), lines(1500, 2000)
    begun = time.process_time()
    for _ in range(20):
        assert fresh_lines(known, fetched) == fetched[500:]
    assert time.process_time() - begun < 1.0


def test_lines_that_nobody_could_read_are_told_of() -> None:
    """Two reads that do not meet have lines between them: what was there stays, and the gap is said."""
    assert fresh_lines(lines(0, 2000), lines(6000, 2000)) is None

    async def scene(daemon: FakeDaemon, app: FcdApp, pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        await wait_until(pilot, lambda: len(screen.view.lines) == 40)
        daemon.logs[""] += lines(0, 5000)  # more than are asked for at first
        await wait_until(pilot, lambda: len(screen.view.lines) == 5040)
        daemon.logs[""] += lines(5000, 12_000)  # more than are asked for at all
        await wait_until(pilot, lambda: len(screen.view.lines) == 15_041)
        assert sum("the file has them all" in line for line in screen.view.lines) == 1
        assert screen.view.lines[-1] == lines(16_999, 1)[0]

    play("f6", scene)
