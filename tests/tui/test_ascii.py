"""With --ascii nothing on the screen is anything else."""

from __future__ import annotations

import asyncio

import pytest

from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.test_snapshots import workers
from tui.app import FcdApp


def rows(app: FcdApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


KEYS = [["f1"], ["ctrl+l"], ["ctrl+t"], ["ctrl+p"], ["f5"], ["f5", "x"], ["f6"], ["slash", "m"], ["ctrl+c"],
        ["f3"], ["f3", "ctrl+l"], ["f4"], ["f4", "h"], ["f4", "v"], ["f4", "f"], ["f4", "e"]]  # fmt: skip


@pytest.mark.parametrize("keys", KEYS)
def test_every_window_is_ascii(keys: list[str]) -> None:
    async def main() -> None:
        daemon: FakeDaemon = workers()
        app = make_app(daemon, ascii_only=True)
        async with app.run_test(size=(80, 24), notifications=True) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            before = rows(app)
            await pilot.press(*keys)
            await wait_until(pilot, lambda: rows(app) != before)
            await pilot.pause(0.2)
            strange = {character for character in rows(app) if not character.isascii()}
            assert not strange, rows(app)

    asyncio.run(main())
