"""The interface in a real browser: a chat with the built-in model, and a vote in a battle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

pytest.importorskip("aiohttp", reason="the extra fcd[web] is not installed")

from tests.e2e.chromium import browser, chromium
from tests.e2e.harness import Home, is_running

pytestmark = pytest.mark.slow
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"


@pytest.fixture
def server(own_daemon: Home) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fcd tui --web`, and the link that it printed."""
    chromium()
    process = own_daemon.popen("tui", "--web", stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def test_chat_and_vote_in_a_browser(
    own_daemon: Home, server: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, link = server

    async def main() -> None:
        async with browser(tmp_path / "profile") as page:
            await page.call("Page.navigate", url=link)
            await page.wait("● daemon")
            assert await page.evaluate("location.search") == ""  # the token is not left in the address
            await page.type("What is fcd?")
            await page.press("Enter")
            await page.wait(lambda text: "tok/s" in text and "esc stop" not in text)

            await page.press("F3")
            await page.wait("Ask both")
            await page.type("What is two plus three?")
            await page.press("Enter")
            await page.wait(lambda text: text.count("done") >= 2 or "left vote" in text, within=120)
            await asyncio.sleep(0.5)  # the picture is drawn by frames of the browser
            picture = await page.picture()
            assert drawn(picture)
            if os.environ.get("FCD_PICTURES") == "1":
                PICTURES.mkdir(exist_ok=True)
                (PICTURES / "web.png").write_bytes(picture)
            await page.press("ArrowLeft")
            await page.wait("Your vote: A is better")
            await page.wait(lambda text: "A = guide" in text, within=30)
            assert {urlsplit(url).netloc for url in page.requests if url.startswith(("http", "ws"))} == {
                urlsplit(link).netloc
            }

            sessions = psutil.Process(process.pid).children()
            assert len(sessions) == 1
            await page.call("Page.navigate", url="about:blank")
            await ended(sessions)

            await page.call("Page.navigate", url=link.split("enter")[0])  # the cookie still opens it
            page.screen.reset()
            await page.wait("● daemon")
            (session,) = psutil.Process(process.pid).children()
            process.send_signal(signal.SIGTERM)
            await ended([session])
            words = "document.body.classList.contains('-closed') && document.querySelector('#why').textContent"
            for _ in range(200):
                if "server of this page ended" in str(await page.evaluate(words)):
                    break
                await asyncio.sleep(0.05)
            else:
                pytest.fail("the page does not say that the server ended")

    asyncio.run(main())
    votes = json.loads(own_daemon.fcd("arena", "votes", "--json").stdout)
    assert "two plus three" in json.dumps(votes)


async def ended(processes: list[psutil.Process]) -> None:
    for _ in range(400):
        if not any(is_running(process.pid) for process in processes):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"still running: {processes}")


def drawn(png: bytes) -> bool:
    """Whether a picture shows more than one flat colour: rows that differ from the row above, by PNG's own filter."""
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    data, at = b"", 8
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += 12 + size
    rows = zlib.decompress(data)
    stride = width * (depth // 8) * {2: 3, 6: 4}[colour] + 1
    return sum(any(rows[row * stride + 1 : (row + 1) * stride]) for row in range(height)) > height // 10
