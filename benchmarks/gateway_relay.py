"""What the gateway's relay costs: CPU seconds per million streamed tokens, delay, and requests per second.

    python -m benchmarks.gateway_relay [--streams 256] [--rate 30] [--seconds 10]

A mock worker, the daemon and a client run as processes of their own. The worker stamps every token with its send time,
so that delay is one-way. `straight` is the client at the worker itself, without the daemon between.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil
import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
EVENT = (
    'data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1700000000,'
    '"model":"m","choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"t":%.6f}\n\n'
)


class MockWorker(asyncio.Protocol):
    """Answers `n` tokens at `rate` per second (0: as fast as they go), or one small JSON body without `stream`."""

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
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        if len(rest) < length:
            return
        body, self.buffer = json.loads(rest[:length]), rest[length:]
        if body.get("stream"):
            self.task = asyncio.get_running_loop().create_task(self.stream(body["n"], body["rate"]))
        else:
            self.transport.write(WHOLE)

    async def stream(self, count: int, rate: float) -> None:
        self.transport.write(HEAD)
        due = time.monotonic()
        for _ in range(count):
            if rate:
                due += 1 / rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            elif not self.can_write.is_set():
                await self.can_write.wait()
            data = (EVENT % time.monotonic()).encode()
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (14, b"data: [DONE]\n\n"))


async def worker(socket_path: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    unix = await loop.create_unix_server(MockWorker, socket_path, backlog=1024)
    server = await loop.create_server(MockWorker, "127.0.0.1", port, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.gather(unix.serve_forever(), server.serve_forever())


async def gateway(socket_path: str, port: int) -> None:
    from sanic import Blueprint

    from daemon.context import DaemonContext
    from daemon.dispatch import Lease, Target
    from daemon.lifecycle import Server, bind, open_context, url_of
    from fcd.paths import resolve_paths
    from fcd.settings import Settings
    from fcd.wire.admin import ModelInfo, WorkerInfo

    target = Target("w", socket=socket_path) if socket_path else Target("w", port=port)

    class OneLease:
        def __init__(self) -> None:
            self.target = target

        def release(self, *, failed: bool = False, reason: str = "") -> None: ...

    class OneWorker:
        async def start(self) -> None: ...
        async def close(self) -> None: ...
        def workers(self) -> list[WorkerInfo]:
            return []

        def not_ready(self) -> list[str]:
            return []

        def models(self) -> list[ModelInfo]:
            return []

        async def acquire(
            self, model: str, *, exclude: Collection[str] = (), keep_alive: str = "", prefixes: object = None
        ) -> Lease:
            return OneLease()

        def blueprints(self, context: DaemonContext) -> list[Blueprint]:
            return []

    with tempfile.TemporaryDirectory() as home:
        paths = resolve_paths({"FCD_HOME": home})
        paths.create()
        listener = bind("127.0.0.1", 0)
        context = await open_context(Settings(), paths, url_of(listener), lambda _: OneWorker())
        await Server(context, listener).start()
        print(listener.getsockname()[1], flush=True)
        await asyncio.Event().wait()


async def request(port: int, body: dict[str, Any], delays: list[float], *, times: int = 1) -> None:
    """Send the same request one time after another over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    data = json.dumps({"model": "m", **body}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    sent = f"{head}{len(data)}\r\n\r\n".encode() + data
    for _ in range(times):
        began = time.monotonic()
        writer.write(sent)
        if not body.get("stream"):
            await reader.readuntil(b'{"ok":true}')
            delays.append(time.monotonic() - began)
            continue
        await reader.readuntil(b"\r\n\r\n")
        while True:
            line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(line, 16) + 2)
            now = time.monotonic()
            if line == b"0\r\n":
                break
            for part in chunk.split(b'"t":')[1:]:
                delays.append(now - float(part[: part.index(b"}")]))
    writer.close()


async def measure(port: int, process: psutil.Process | None, args: argparse.Namespace) -> dict[str, float]:
    def cpu() -> float:
        return 0.0 if process is None else sum(process.cpu_times()[:2])

    delays: list[float] = []
    paced = {"stream": True, "n": int(args.rate * args.seconds), "rate": args.rate}
    before = cpu()
    await asyncio.gather(*(request(port, paced, delays) for _ in range(args.streams)))
    result = {"cpu_s_per_1M": (cpu() - before) / len(delays) * 1e6, "delay_p50_us": statistics.median(delays) * 1e6}
    flat: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(request(port, {"stream": True, "n": 5000, "rate": 0}, flat) for _ in range(32)))
    result["flat_tokens_per_s"] = len(flat) / (time.monotonic() - began)
    whole: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(request(port, {}, whole, times=200) for _ in range(32)))
    result["requests_per_s"] = len(whole) / (time.monotonic() - began)
    one: list[float] = []
    await request(port, {}, one, times=500)
    result["request_p50_us"] = statistics.median(one) * 1e6
    return result


def start(role: str, *words: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "benchmarks.gateway_relay", "--role", role, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--role", choices=("worker", "gateway"))
    parser.add_argument("--socket", default="")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    if args.role:
        runner.run((worker if args.role == "worker" else gateway)(args.socket, args.port))
        return
    with tempfile.TemporaryDirectory() as folder:
        socket_path = str(Path(folder) / "worker.sock")
        children = []
        try:
            mock, port = start("worker", "--socket", socket_path)
            children.append(mock)
            rows = {"straight": runner.run(measure(port, None, args))}
            for name, words in (
                ("through, TCP", ("--port", str(port))),
                ("through, socket", ("--socket", socket_path)),
            ):
                child, at = start("gateway", *words)
                children.append(child)
                rows[name] = runner.run(measure(at, psutil.Process(child.pid), args))
                child.terminate()
                child.wait()
        finally:
            for child in children:
                child.kill()
                child.wait()
    print(f"{args.streams} streams of {args.rate:g} tokens/s for {args.seconds:g} s; {os.cpu_count()} cores")
    for name, row in rows.items():
        print(f"{name:<16}" + "  ".join(f"{key} {value:,.1f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
