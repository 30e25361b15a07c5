"""A daemon in this process on a real socket, with a scripted controller, and scripted workers behind real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import uvloop
from sanic import Blueprint

from daemon.context import DaemonContext
from daemon.dispatch import Target
from daemon.http import json_response
from daemon.lifecycle import Server, bind, open_context, url_of
from fcd.errors import ApiError, model_not_found
from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings
from fcd.wire.admin import ModelInfo, WorkerInfo
from fcd.wire.devices import DeviceList, DeviceReading

CHAT = "/v1/chat/completions"


def run(main: Coroutine[Any, Any, None]) -> None:
    """On the loop that the daemon itself uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


class FakeLease:
    def __init__(self, target: Target, log: list[tuple[str, bool, str]]) -> None:
        self.target = target
        self._log = log
        self.released = False

    def release(self, *, failed: bool = False, reason: str = "") -> None:
        assert not self.released, "released twice"
        self.released = True
        self._log.append((self.target.worker, failed, reason))


@dataclass
class FakeController:
    """Knows the model `m`, served by `targets` in order."""

    targets: list[Target] = field(default_factory=list)
    released: list[tuple[str, bool, str]] = field(default_factory=list)
    held: int = 0
    error: ApiError | None = None
    gate: asyncio.Event | None = None
    closed: bool = False
    keep_alive: str = ""
    daemons: set[str] = field(default_factory=set)
    """Workers that pass on what they are sent."""

    async def start(self) -> None: ...

    async def close(self) -> None:
        self.closed = True

    def workers(self) -> list[WorkerInfo]:
        return [WorkerInfo("w1", ["m"], "ready", running=2)]

    async def devices(self) -> DeviceList:
        return DeviceList([DeviceReading("cpu", "cpu", "A CPU", 100, 60, 20, utilisation=0.5)])

    def not_ready(self) -> list[str]:
        return []

    def models(self) -> list[ModelInfo]:
        return [ModelInfo("m", "builtin", "ready", context_length=2048), ModelInfo("org/other", "cache")]

    async def acquire(
        self,
        model: str,
        *,
        exclude: Collection[str] = (),
        keep_alive: str = "",
        prefixes: Callable[[], tuple[int, ...]] | None = None,
        ends_here: bool = False,
    ) -> FakeLease:
        self.keep_alive = keep_alive
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if model != "m":
            raise model_not_found(model, ["m"])
        for target in self.targets:
            if target.worker not in exclude and not (ends_here and target.worker in self.daemons):
                return FakeLease(target, self.released)
        if ends_here:
            raise ApiError(508, "It goes round.", code="loop")
        raise ApiError(503, "No worker is left.", code="no_worker")

    def blueprints(self, context: DaemonContext) -> Sequence[Blueprint]:
        """Stand-ins for FastChat's routes, which only say who they let in."""
        routes = Blueprint("controller")

        async def who(request: Any) -> Any:
            caller = request.ctx.caller
            return json_response({"kind": caller.kind, "name": caller.name, "path": request.path})

        for name in ("register_worker", "receive_heart_beat", "refresh_all_workers", "list_models"):
            routes.add_route(who, f"/{name}", methods=["POST"], name=name)
        routes.add_route(who, "/test_connection", methods=["GET"], name="test_connection")

        @routes.post("/api/fails")
        async def fails(request: Any) -> Any:
            raise RuntimeError("secret inside")

        return [routes]


@dataclass
class Running:
    """A daemon that is up."""

    url: str
    context: DaemonContext
    controller: FakeController
    http: httpx.AsyncClient
    server: Server
    paths: Paths

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.paths.admin_token.read_text()}"}

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@asynccontextmanager
async def daemon(*targets: Target, **daemon_settings: Any) -> AsyncIterator[Running]:
    settings = Settings()
    for name, value in daemon_settings.items():
        setattr(settings.daemon, name, value)
    with tempfile.TemporaryDirectory() as folder:
        paths = resolve_paths({"FCD_HOME": folder})
        paths.create()
        listener = bind("127.0.0.1", 0)
        url = url_of(listener)
        controller = FakeController(list(targets))
        context = await open_context(settings, paths, url, lambda _: controller)
        server = Server(context, listener)
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=url, timeout=20, trust_env=False) as http:
                yield Running(url, context, controller, http, server, paths)
        finally:
            await server.close()
            await context.store.close()


@dataclass
class Received:
    """What a scripted worker was sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Script = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ScriptedWorker:
    target: Target
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a connection was ended by the other side while a script was running."""


@asynccontextmanager
async def worker(
    script: Script, *, name: str = "w1", folder: Path | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedWorker]:
    """A server that answers every request by `script`, on a unix socket when `folder` is given."""
    scripted = ScriptedWorker(Target(name))
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scripted.connections += 1
        if (task := asyncio.current_task()) is not None:
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        try:
            while (request := await read_request(reader)) is not None:
                scripted.received.append(request)
                await script(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            scripted.left.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    if folder is not None:
        path = str(folder / f"{name}.sock")
        server = await asyncio.start_unix_server(serve, path)
        scripted.target = Target(name, socket=path)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        scripted.target = Target(name, port=server.sockets[0].getsockname()[1])
    try:
        yield scripted
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, body)


def whole(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any) -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return chunk(f"data: {text}\n\n".encode())


def answer(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(status, body, *headers))
        await writer.drain()

    return script


def stream(*pieces: bytes | float | Awaitable[Any]) -> Script:
    """Bytes are written one after another; an awaitable is waited for in between."""

    async def script(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            if isinstance(piece, bytes):
                writer.write(piece)
                await writer.drain()
            elif isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                await piece

    return script


def asks(*, stream: bool = False, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}


async def until(condition: Callable[[], Any], *, within: float = 5.0, what: str = "") -> None:
    """Wait until the condition holds; fails when it does not in time."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert condition(), what


async def lines_of(response: httpx.Response) -> list[str]:
    return [line async for line in response.aiter_lines() if line]


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object, after checking that it has OpenAI's shape and leaks no trace."""
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    error: dict[str, Any] = msgspec.json.decode(response.content)["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    return error
