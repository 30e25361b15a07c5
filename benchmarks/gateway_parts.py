"""The processes of `benchmarks.gateway_relay`: the mock worker, the daemon before it, nginx before it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_HERE = Path(__file__).resolve().parent.parent
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_WHOLE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
_EVENT = (
    'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    '"model":"m","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"t":%.6f}\n\n'
)
_MANY = 4096
"""Requests that the worker says it runs at once."""


class MockWorker(asyncio.Protocol):
    """Answers `n` tokens at `rate` per second (0: as fast as they go), or one small JSON body without `stream`.

    `busy` is how many seconds of a single front's time each request costs before it is answered, one after another, as
    the front of a real server does. `cold`: it closes the connection then, so that the next request needs a new one.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""
        self.can_write = asyncio.Event()
        self.can_write.set()

    def pause_writing(self) -> None:
        self.can_write.clear()

    def resume_writing(self) -> None:
        self.can_write.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line[:15].lower() == b"content-length:"), 0)
        if len(rest) < length:
            return
        body, self.buffer = json.loads(rest[:length] or b"{}"), rest[length:]
        until = time.perf_counter() + body.get("busy", 0.0)
        while time.perf_counter() < until:
            pass
        if not body.get("stream"):
            self.transport.write(_WHOLE)
        elif body["n"] == 1:
            head = _HEAD.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) if body.get("cold") else _HEAD
            self.transport.write(head + _chunk((_EVENT % time.monotonic()).encode()))
            self._end()
            if body.get("cold"):
                self.transport.close()
        else:
            self.task = asyncio.get_running_loop().create_task(self.stream(body["n"], body["rate"]))

    async def stream(self, count: int, rate: float) -> None:
        self.transport.write(_HEAD)
        due = time.monotonic()
        for _ in range(count):
            if rate:
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            elif not self.can_write.is_set():
                await self.can_write.wait()
            self.transport.write(_chunk((_EVENT % time.monotonic()).encode()))
        self._end()

    def _end(self) -> None:
        self.transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def worker(socket_path: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    unix = await loop.create_unix_server(MockWorker, socket_path, backlog=1024)
    server = await loop.create_server(MockWorker, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.gather(unix.serve_forever(), server.serve_forever())


async def gateway(socket_path: str, port: int) -> None:
    """The daemon as it is, with its controller; the mock worker is one that was attached."""
    import tempfile

    from daemon.controller.controller import Controller
    from daemon.controller.registry import Record
    from daemon.dispatch import Target
    from daemon.lifecycle import Server, bind, open_context, url_of
    from fcd.paths import resolve_paths
    from fcd.settings import Settings
    from fcd.wire.controller import FcdExtension, WorkerStatus

    with tempfile.TemporaryDirectory() as home:
        paths = resolve_paths({"FCD_HOME": home})
        paths.create()
        listener = bind("127.0.0.1", 0)
        context = await open_context(Settings(), paths, url_of(listener), Controller)
        await Server(context, listener).start()
        controller: Any = context.controller
        await controller.start()
        controller.supervisor.register(
            Record(
                "w",
                f"http://127.0.0.1:{port or 1}",
                local=False,
                status=WorkerStatus(["m"]),
                target=Target("w", socket=socket_path) if socket_path else Target("w", port=port),
                check_beat=False,
                attached=True,
                fcd=FcdExtension(parallel=_MANY),
            )
        )
        (await controller.acquire("m")).release()
        print(listener.getsockname()[1], flush=True)
        await asyncio.Event().wait()


NGINX = """\
{user}worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream worker {{ server {upstream}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    client_body_buffer_size 1m;
    location / {{
      proxy_pass http://worker; proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


class Part:
    """A child process that serves on a port of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu_s(self) -> float:
        """CPU seconds so far, of its children too."""
        own = psutil.Process(self.process.pid)
        return sum(_scheduled_s(each.pid) for each in [own, *own.children(recursive=True)])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _scheduled_s(pid: int) -> float:
    """To the nanosecond where the system says, of every thread."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    except (OSError, ValueError, IndexError):
        return float(sum(psutil.Process(pid).cpu_times()[:2]))


def start(role: str, *words: str, tree: Path = _HERE) -> Part:
    """A part of its own process; `tree` is the checkout whose daemon it runs."""
    command = [sys.executable, str(_HERE / "benchmarks" / "gateway_relay.py"), "--role", role, *words]
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{_HERE}"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tree, env=environment)
    assert process.stdout is not None
    return Part(process, int(process.stdout.readline()))


def start_nginx(program: str, folder: Path, socket_path: str, port: int) -> Part:
    """nginx as a proxy to the worker, by its socket where it is given; unbuffered, with kept connections."""
    from socket import create_connection, create_server

    with create_server(("127.0.0.1", 0)) as free:
        own = int(free.getsockname()[1])
    folder.mkdir()
    upstream = f"unix:{socket_path}" if socket_path else f"127.0.0.1:{port}"
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # else its worker may not reach the socket
    config.write_text(NGINX.format(user=user, folder=folder, upstream=upstream, port=own))
    log = (folder / "said").open("w")
    part = Part(subprocess.Popen([program, "-c", str(config), "-p", str(folder)], stderr=log, text=True), own)
    for _ in range(100):
        try:
            create_connection(("127.0.0.1", own), 1).close()
            return part
        except OSError:
            time.sleep(0.05)
    part.stop()
    raise RuntimeError(f"nginx did not begin: {(folder / 'said').read_text()}")
