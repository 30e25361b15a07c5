"""Draws the pictures of docs/: each screen of the interface, from the daemon that the tests stand in.

    python -m tests.pictures

The picture of a browser is made by `FCD_PICTURES=1 pytest tests/e2e/test_tui_web.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

from textual.pilot import Pilot

from fcd.settings import Settings, TuiSettings
from fcd.wire.admin import DaemonEvent
from fcd.wire.devices import DeviceReading
from tests.tui.fake import FakeDaemon, make_app, wait_until
from tests.tui.test_snapshots import ANSWER, fight, settled, workers

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
LARGEST = 150_000
"""Bytes of a picture."""
GIB = 2**30
Scene = Callable[[Pilot[None], FakeDaemon], Awaitable[object]]


async def chat(pilot: Pilot[None], daemon: FakeDaemon) -> None:
    screen = await settled(pilot)
    screen.prompt.put("Why is my 8-bit model slower on CPU?")
    await pilot.press("enter")
    await wait_until(pilot, lambda: screen.busy)
    daemon.say(ANSWER)
    daemon.end(tokens=118, prompt_tokens=1500)
    await wait_until(pilot, lambda: not screen.busy)


async def battle(pilot: Pilot[None], daemon: FakeDaemon) -> None:
    screen = await fight(pilot, daemon)
    daemon.arena.done()
    await wait_until(pilot, lambda: screen.focused is screen.bar)


async def arena(pilot: Pilot[None], daemon: FakeDaemon) -> None:
    await settled(pilot)
    await pilot.press("f4")
    await wait_until(pilot, lambda: getattr(pilot.app.screen, "board", None))


async def watch(pilot: Pilot[None], daemon: FakeDaemon) -> None:
    await settled(pilot)
    for step in range(60):
        use, free = 0.5 + 0.4 * ((step * 7) % 10) / 10, 30 * GIB - step * GIB // 4
        gpu = DeviceReading("GPU-1", "gpu", "NVIDIA H100", 80 * GIB, free, 42 * GIB, use, 64.0, 210.0 + step)
        cpu = DeviceReading("cpu", "cpu", "AMD EPYC", 32 * GIB, 20 * GIB, GIB, 0.2 + (step * 3 % 10) / 30)
        daemon.tell(DaemonEvent("devices", devices=[gpu, cpu]))
    await pilot.press("f5")
    await wait_until(pilot, lambda: "Out of memory" in str(pilot.app.screen.query_one("#tail").visual))  # type: ignore[attr-defined]


async def logs(pilot: Pilot[None], daemon: FakeDaemon) -> None:
    await settled(pilot)
    await pilot.press("f6")
    await wait_until(pilot, lambda: "40 of 40" in str(pilot.app.screen.query_one("#log-state").visual))  # type: ignore[attr-defined]
    await pilot.press("e")


SCENES: dict[str, Scene] = {"chat": chat, "battle": battle, "arena": arena, "workers": watch, "logs": logs}


def draw(name: str) -> str:
    """One picture, as SVG without anything that is loaded from elsewhere."""

    async def main() -> str:
        daemon = workers() if name in ("workers", "logs") else FakeDaemon()
        ticks = itertools.count()
        dark = Settings(tui=TuiSettings(theme="dark"))
        app = make_app(daemon, settings=dark, now=lambda: 0.0, clock=lambda: next(ticks) * 0.1)
        async with app.run_test(size=(100, 30)) as pilot:
            await SCENES[name](pilot, daemon)
            await pilot.pause(0.3)
            return app.export_screenshot(simplify=True)

    return re.sub(r"@font-face \{.*?\}\s*", "", asyncio.run(main()), flags=re.S)


def run() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in SCENES:
        svg = draw(name)
        assert len(svg) < LARGEST, f"{name}: {len(svg)} bytes"
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
        print(f"{name}.svg {len(svg)} bytes")


if __name__ == "__main__":
    run()
