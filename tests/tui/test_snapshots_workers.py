"""What the windows of the Workers screen look like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.pilot import Pilot

from fcd.wire.admin import Progress
from fcd.wire.downloads import Download
from tests.tui.fake import make_app, wait_until
from tests.tui.test_snapshots import LOOKS, SIZES, _plain_environment, settled, workers  # noqa: F401


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("size", SIZES)
def test_downloads(snap_compare: Callable[..., bool], size: tuple[int, int], look: str) -> None:
    daemon = workers()
    half = Progress("downloading", 6e8, 1.5e9, "B")
    for repo, state, error in (
        ("Qwen/Qwen3-0.6B", "downloading", ""), ("Qwen/Qwen3-4B", "paused", ""), ("a/b", "failed", "The disk is full."),
    ):  # fmt: skip
        daemon.bringing[repo] = Download(repo, state, half, 12e6 if state == "downloading" else 0.0, error)  # type: ignore[arg-type]
    daemon.warnings = ["config.toml is not applied: line 2: daemon.log_level: Expected `str`, got `int`"]

    async def open_it(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await pilot.press("f5")
        await wait_until(pilot, lambda: "disk" in str(pilot.app.screen.query_one("#loads").visual))  # type: ignore[attr-defined]
        await wait_until(pilot, lambda: "Out of memory" in str(pilot.app.screen.query_one("#tail").visual))  # type: ignore[attr-defined]
        await pilot.press("d")
        await wait_until(pilot, lambda: pilot.app.screen.is_modal)
        field = pilot.app.screen.query_one("Input")
        field.cursor_blink = False  # type: ignore[attr-defined]
        await pilot.pause(0.2)

    app = make_app(
        daemon, now=lambda: 0.0, clock=lambda: 0.0, memory=lambda: (10 * 2**30, "memory", 1.0), **LOOKS[look]
    )
    assert snap_compare(app, run_before=open_it, terminal_size=size)
