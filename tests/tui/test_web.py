"""The server of `fcd tui --web`, asked by a real HTTP and websocket client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the extra fcd[web] is not installed")
pytest.importorskip("textual_serve", reason="the extra fcd[web] is not installed")

from aiohttp import web  # noqa: E402

from tui.web.access import LINK_LIFE_S, Access  # noqa: E402
from tui.web.server import WebServer  # noqa: E402

REFUSED = (403, 421, 401)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def serving(**options: object) -> AsyncIterator[WebServer]:
    server = WebServer(0, **options)  # type: ignore[arg-type]
    runner = web.AppRunner(server.app(), shutdown_timeout=8.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.bind(runner.addresses[0][1])
    try:
        yield server
    finally:
        await runner.cleanup()


def play(scene: Callable[[WebServer, aiohttp.ClientSession], Awaitable[None]], **options: object) -> None:
    async def main() -> None:
        jar = aiohttp.CookieJar(unsafe=True)
        async with serving(**options) as server, aiohttp.ClientSession(cookie_jar=jar) as browser:
            await scene(server, browser)

    asyncio.run(main())


async def enter(server: WebServer, browser: aiohttp.ClientSession) -> str:
    """Open a link; where the server is."""
    link = server.link()
    async with browser.get(link) as answer:
        assert answer.status == 200, await answer.text()
    return link.split("/enter")[0]


def test_a_link_opens_once_and_not_for_ever() -> None:
    clock = Clock()
    access = Access(1, clock)
    link = access.new_link()
    assert access.enter(link[:-1]) is None
    assert access.enter("") is None
    cookie = access.enter(link)
    assert cookie is not None
    assert access.enter(link) is None
    assert access.knows(cookie)
    assert not access.knows(cookie + "x")
    assert not access.knows("")
    assert not access.knows(link)
    late = access.new_link()
    clock.now = LINK_LIFE_S + 1
    assert access.enter(late) is None
    assert access.knows(cookie)


def test_links_and_cookies_are_bounded() -> None:
    access = Access(1, Clock())
    links = [access.new_link() for _ in range(40)]
    assert access.enter(links[0]) is None
    cookies = [access.enter(access.new_link()) for _ in range(40)]
    assert not access.knows(cookies[0] or "")
    assert sum(access.knows(cookie or "") for cookie in cookies) <= 16


def test_without_the_cookie_there_is_nothing() -> None:
    async def scene(server: WebServer, browser: aiohttp.ClientSession) -> None:
        here = f"http://127.0.0.1:{server.port}"
        for path in ("/", "/state", "/static/textual.js", "/nowhere"):
            async with browser.get(here + path) as answer:
                assert answer.status == 401, path
        async with browser.get(f"{here}/enter?token=wrong") as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await browser.ws_connect(f"{here}/ws", origin=here)
        assert refusal.value.status == 401
        assert not server.open

    play(scene)


def test_a_link_gives_a_cookie_that_scripts_and_other_sites_do_not_get() -> None:
    async def scene(server: WebServer, browser: aiohttp.ClientSession) -> None:
        link = server.link()
        async with browser.get(link, allow_redirects=False) as answer:
            assert answer.status == 303
            assert answer.headers["Location"] == "/"
            cookie = answer.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        async with browser.get(link) as answer:
            assert answer.status == 403
        async with browser.get(link.split("enter")[0]) as answer:
            page = await answer.text()
            assert answer.status == 200
            assert f"ws://127.0.0.1:{server.port}/ws" in page
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"

    play(scene)


def test_only_this_host_and_this_page_are_answered() -> None:
    async def scene(server: WebServer, browser: aiohttp.ClientSession) -> None:
        here = await enter(server, browser)
        own = f"127.0.0.1:{server.port}"
        for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}", ""):
            async with browser.get(here, headers={"Host": host}) as answer:
                assert answer.status in (421, 400), host
        for origin in ("http://evil.example", f"http://localhost:{server.port}", "null", f"https://{own}", here + "/"):
            async with browser.get(here, headers={"Origin": origin}) as answer:
                assert answer.status == 403, origin
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await browser.ws_connect(f"{here}/ws", origin=origin)
            assert refusal.value.status == 403, origin
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:  # what says no origin is no browser's page
            await browser.ws_connect(f"{here}/ws")
        assert refusal.value.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await browser.ws_connect(f"{here}/ws", origin="http://evil.example", headers={"Host": "evil.example"})
        assert refusal.value.status == 421
        assert not server.open

    play(scene)


def test_only_named_files_are_served_and_none_comes_from_elsewhere() -> None:
    async def scene(server: WebServer, browser: aiohttp.ClientSession) -> None:
        here = await enter(server, browser)
        for path in ("/static/", "/static/server.py", "/static/..%2Fserver.py", "/static/%2e%2e/app.py", "/download/x"):
            async with browser.get(here + path) as answer:
                assert answer.status == 404, path
        for name in ("textual.js", "xterm.css", "page.js", "page.css"):
            async with browser.get(f"{here}/static/{name}") as answer:
                assert answer.status == 200
                text = await answer.text()
                if name.endswith(".css") or name == "page.js":
                    assert "http" not in text.replace("https://github.com", "").replace("http://bellard.org", "")
        async with browser.get(here) as answer:
            page = await answer.text()
        assert "https://" not in page
        assert "//fonts" not in page

    play(scene)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sessions find no daemon, and start none."""
    monkeypatch.setenv("FCD_HOME", str(tmp_path))
    monkeypatch.setenv("FCD_URL", "http://127.0.0.1:1")


def sessions_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "tui.web.run" in child.cmdline()]


async def gone(processes: list[psutil.Process], within: float = 20.0) -> bool:
    """Whether all of them end in time."""
    deadline = time.monotonic() + within
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def painted(socket: aiohttp.ClientWebSocketResponse) -> None:
    seen = b""
    while b"Workers" not in seen:
        message = await socket.receive(timeout=30)
        assert message.type == aiohttp.WSMsgType.BINARY, message
        seen += message.data


@pytest.mark.usefixtures("nowhere")
def test_a_session_is_a_process_that_ends_with_its_page() -> None:
    async def scene(server: WebServer, browser: aiohttp.ClientSession) -> None:
        here = await enter(server, browser)
        async with browser.ws_connect(f"{here}/ws?width=90&height=30", origin=here) as socket:
            await painted(socket)
            (session,) = sessions_of(os.getpid())
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:  # one at a time, here
                await browser.ws_connect(f"{here}/ws", origin=here)
            assert refusal.value.status == 503
            async with browser.get(here) as answer:
                assert answer.status == 503
                assert "1 sessions are open" in await answer.text()
            await socket.send_json(["resize", {"width": 10**9, "height": 10**9}])
            await socket.send_json(["ping", "7"])
            while (message := await socket.receive(timeout=20)).type != aiohttp.WSMsgType.TEXT:
                pass
            assert message.json() == ["pong", "7"]
        assert await gone([session])
        while server.open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        async with browser.ws_connect(f"{here}/ws", origin=here) as socket:
            await painted(socket)
            (session,) = sessions_of(os.getpid())
            await socket.send_str("{}")
            while (message := await socket.receive(timeout=20)).type == aiohttp.WSMsgType.BINARY:
                pass
            assert socket.close_code == 1008
        assert await gone([session])

    play(scene, sessions=1)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_end_with_the_server(number: signal.Signals) -> None:
    """Also when it is killed without a word."""

    async def main() -> None:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "fcd", "tui", "--web"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            link = await asyncio.to_thread(process.stdout.readline)
            here = link.split("/enter")[0]
            jar = aiohttp.CookieJar(unsafe=True)
            async with aiohttp.ClientSession(cookie_jar=jar) as browser:
                async with browser.get(link.strip()) as answer:
                    assert answer.status == 200
                async with browser.ws_connect(f"{here}/ws", origin=here) as socket:
                    await painted(socket)
                    (session,) = sessions_of(process.pid)
                    process.send_signal(number)
                    assert await gone([session])
                    assert await asyncio.to_thread(process.wait, 20) == (0 if number == signal.SIGTERM else -9)
        finally:
            process.kill()
            process.wait()

    asyncio.run(main())
