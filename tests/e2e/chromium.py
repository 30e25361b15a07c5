"""A real Chromium without a window, driven by its DevTools protocol: only what the tests need of it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pyte
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {
    "Enter": ("Enter", 13, "\r"), "ArrowLeft": ("ArrowLeft", 37, ""), "Escape": ("Escape", 27, ""),
    **{f"F{number}": (f"F{number}", 111 + number, "") for number in range(1, 10)},
}  # fmt: skip


def chromium() -> str:
    """Where it is; skips the test where there is none."""
    found = os.environ.get("FCD_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    reason = "there is no Chromium (Debian's package is `chromium`; FCD_CHROMIUM names one elsewhere)"
    if os.environ.get("FCD_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


class Page:
    """One page, and the terminal that the frames of its websocket paint."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.screen = pyte.Screen(80, 24)
        self.requests: list[str] = []
        self._painter = pyte.ByteStream(self.screen)
        self._socket = socket
        self._count = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            event = message.json()
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Network.webSocketFrameReceived":
                frame = event["params"]["response"]
                if frame["opcode"] == 2:
                    self._painter.feed(base64.b64decode(frame["payloadData"]))
            elif event["method"] == "Network.webSocketFrameSent":
                self._resized(event["params"]["response"]["payloadData"])
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])

    def _resized(self, text: str) -> None:
        kind, *rest = json.loads(text)
        if kind == "resize":
            self.screen.resize(rest[0]["height"], rest[0]["width"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        answer = asyncio.get_running_loop().create_future()
        self._answers[self._count] = answer
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        decoded = await asyncio.wait_for(answer, 30)
        assert "error" not in decoded, decoded
        result: dict[str, Any] = decoded["result"]
        return result

    async def evaluate(self, expression: str) -> Any:
        return (await self.call("Runtime.evaluate", expression=expression, returnByValue=True))["result"].get("value")

    async def type(self, text: str) -> None:
        for sign in text:
            await self.call("Input.dispatchKeyEvent", type="char", text=sign, unmodifiedText=sign)

    async def press(self, key: str) -> None:
        code, number, text = KEYS[key]
        named = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        await self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **named)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    async def wait(self, words: str | Callable[[str], object], within: float = 60.0) -> str:
        deadline = asyncio.get_running_loop().time() + within
        while not (words in self.text if isinstance(words, str) else words(self.text)):
            assert asyncio.get_running_loop().time() < deadline, f"never showed {words}:\n{self.text}"
            await asyncio.sleep(0.05)
        return self.text

    async def picture(self) -> bytes:
        """What the page looks like, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])

    async def close(self) -> None:
        self._reader.cancel()
        await self._socket.close()


@asynccontextmanager
async def browser(folder: Path, size: tuple[int, int] = (980, 620)) -> AsyncIterator[Page]:
    """A browser of its own with one empty page."""
    process = await asyncio.create_subprocess_exec(
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        port = await _port(folder / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            page = Page(await http.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0))
            for domain in ("Page", "Network", "Runtime"):
                await page.call(f"{domain}.enable")
            try:
                yield page
            finally:
                await page.close()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
        await process.wait()


async def _port(file: Path, process: asyncio.subprocess.Process) -> int:
    deadline = asyncio.get_running_loop().time() + 60
    while not (file.exists() and file.read_text().strip()):
        assert process.returncode is None, "Chromium ended"
        assert asyncio.get_running_loop().time() < deadline, "Chromium opens no port"
        await asyncio.sleep(0.05)
    return int(file.read_text().split()[0])
