"""Serves the interface to browsers on this machine. Everything but a link's first visit needs the cookie it gave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler
from textual_serve.download_manager import DownloadManager

from tui.web.access import LINK_LIFE_S, Access
from tui.web.session import Session

SESSIONS = 4
"""Interfaces that run at once; each is a process."""
_MESSAGE = 1 << 20
"""Bytes of one message from a browser: a large paste."""
_HERE = Path(__file__).parent
_ANOTHER = "Enter in the terminal where it runs prints another."
_KINDS = {".js": "text/javascript", ".css": "text/css"}


class WebServer:
    """One port, its links and its sessions."""

    def __init__(
        self,
        port: int,
        flags: Sequence[str] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sessions: int = SESSIONS,
    ) -> None:
        self._clock = clock
        self.bind(port)
        self.limit = sessions
        self.open: set[web.WebSocketResponse] = set()
        self._flags = flags
        self._downloads = DownloadManager()
        theirs = Path(str(files("textual_serve"))) / "static"
        self._static = {
            "textual.js": theirs / "js/textual.js",
            "xterm.css": theirs / "css/xterm.css",
            "page.css": _HERE / "page.css",
            "page.js": _HERE / "page.js",
        }
        """Everything that can be asked for by name; no folder is listed or walked."""

    def bind(self, port: int) -> None:
        """The port that it is reached at."""
        self.port = port
        self.access = Access(port, self._clock)

    def link(self) -> str:
        """A fresh link that opens the interface once."""
        return f"http://127.0.0.1:{self.port}/enter?token={self.access.new_link()}"

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/enter", self._enter),
                web.get("/", self._page),
                web.get("/state", self._state),
                web.get("/static/{name}", self._file),
                web.get("/ws", self._socket),
            ]
        )
        app.on_shutdown.append(self._shut)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Host, Origin and cookie, before anything else."""
        answer = self._refusal(request)
        if answer is None:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = web.Response(status=error.status, text=f"{error.reason}.\n")
        if not answer.prepared:
            answer.headers.update(_headers(request.host))
        return answer

    def _refusal(self, request: web.Request) -> web.StreamResponse | None:
        origin = request.headers.get("Origin")
        if not self.access.host_allowed(request.host):
            return _told(421, f"This server answers to 127.0.0.1:{self.port} only.")
        asks = request.path == "/ws" or origin is not None
        if asks and not self.access.origin_allowed(origin or "", request.host):
            return _told(403, "Only this server's own page may ask.")
        if request.path == "/enter":
            return None
        if not self.access.knows(request.cookies.get(self.access.cookie_name, "")):
            return _told(401, f"Open the link that `fcd tui --web` printed. {_ANOTHER}")
        return None

    async def _enter(self, request: web.Request) -> web.StreamResponse:
        cookie = self.access.enter(request.query.get("token", ""))
        if cookie is None:
            return _told(403, f"This link was used or is too old. {_ANOTHER}")
        answer = web.Response(status=303, headers={"Location": "/"})
        answer.set_cookie(self.access.cookie_name, cookie, httponly=True, samesite="Strict", path="/")
        return answer

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if len(self.open) >= self.limit:
            return _told(503, self._full())
        text = (_HERE / "page.html").read_text(encoding="utf-8").replace("HOST", request.host)
        return web.Response(text=text, content_type="text/html")

    def _full(self) -> str:
        return f"{self.limit} sessions are open, as many as there may be; close one of their pages first."

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text=self._full() if len(self.open) >= self.limit else "")

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._static.get(request.match_info["name"])
        if path is None:
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes(), content_type=_KINDS[path.suffix])

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if len(self.open) >= self.limit:
            return _told(503, self._full())
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=_MESSAGE)
        self.open.add(socket)
        try:
            await socket.prepare(request)
            session = Session(
                self._flags,
                self._downloads,
                write_bytes=socket.send_bytes,
                write_str=socket.send_str,
                close=socket.close,
            )
            try:
                await session.start(_number(request, "width", 80), _number(request, "height", 24))
                await self._relay(socket, session)
            finally:
                await asyncio.shield(session.stop())
        finally:
            self.open.discard(socket)
            with contextlib.suppress(ConnectionError):
                await socket.close()
        return socket

    async def _relay(self, socket: web.WebSocketResponse, session: Session) -> None:
        """What the browser says, to the session, until it leaves or says what is no message."""
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                continue
            try:
                kind, data = _read(message.data)
                if kind == "stdin":
                    await session.send_bytes(str(data).encode("utf-8", "replace"))
                elif kind == "resize" and isinstance(data, dict):
                    await session.set_terminal_size(int(data["width"]), int(data["height"]))
                elif kind == "ping":
                    await socket.send_json(["pong", data])
                elif kind in ("blur", "focus"):
                    await session.send_meta({"type": kind})
            except (ValueError, TypeError, KeyError, OverflowError):
                await socket.close(code=1008, message=b"no message of this protocol")
                return

    async def _shut(self, app: web.Application) -> None:
        for socket in list(self.open):
            with contextlib.suppress(ConnectionError):
                await socket.close(code=1001, message=b"the server ends")


def _read(text: str) -> tuple[str, object]:
    envelope = json.loads(text)
    if not isinstance(envelope, list) or not envelope or not isinstance(envelope[0], str):
        raise ValueError(envelope)
    return envelope[0], envelope[1] if len(envelope) > 1 else None


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else default


def _told(status: int, words: str) -> web.Response:
    return web.Response(status=status, text=f"{words}\n")


def _headers(host: str) -> dict[str, str]:
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        f"connect-src 'self' ws://{host}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return {
        "Content-Security-Policy": policy if _plain(host) else "default-src 'none'",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


def _plain(host: str) -> bool:
    return all(sign.isalnum() or sign in ".:[]" for sign in host)


async def serve(port: int, flags: Sequence[str], *, say: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Port 0 takes any that is free.

    Raises:
        OSError: the port is taken.
    """
    say = say or _print
    server = WebServer(port, flags)
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=8.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    try:
        await site.start()
        if port == 0:
            server.bind(runner.addresses[0][1])
        _announce(server, say)
        await _until_told(lambda: _announce(server, say))
    finally:
        await runner.cleanup()


def _announce(server: WebServer, say: Callable[[str], None]) -> None:
    more = "enter: another link; " if _reads() else ""
    say(f"{server.link()}\n  opens once, within {LINK_LIFE_S / 60:.0f} minutes. {more}^C: end.")


def _reads() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _print(text: str) -> None:
    print(text, flush=True)


async def _until_told(another: Callable[[], None]) -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, done.set)
    reads = _reads()

    def line() -> None:
        if sys.stdin.readline():
            another()
        else:
            loop.remove_reader(sys.stdin)

    if reads:
        loop.add_reader(sys.stdin, line)
    try:
        await done.wait()
    finally:
        if reads:
            loop.remove_reader(sys.stdin)
