"""What the gateway's relay costs: CPU seconds per million streamed tokens, delay, and requests per second.

    python -m benchmarks.gateway_relay [--streams 256] [--rate 30] [--seconds 10] [--tree OTHER]
    python -m benchmarks.gateway_relay --burst 256 [--rounds 20] [--busy-ms 0] [--cold] [--tree OTHER]

A mock worker, the daemon and a client run as processes of their own. The worker stamps every token with its send time,
so that delay is one-way. `straight` is the client at the worker itself, without the daemon between. nginx stands beside
them where it is installed, and so does the daemon of another checkout with `--tree`; their rounds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.gateway_parts import Part, gateway, start, start_nginx, worker

_LIMIT_S = 60.0


async def request(port: int, body: dict[str, Any], delays: list[float], *, times: int = 1) -> None:
    """Send the same request one time after another over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    sent = request_bytes(body)
    for _ in range(times):
        began = time.monotonic()
        writer.write(sent)
        if not body.get("stream"):
            await reader.readuntil(b'{"ok":true}')
            delays.append(time.monotonic() - began)
            continue
        await reader.readuntil(b"\r\n\r\n")
        held = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(line, 16) + 2)
            now = time.monotonic()
            if line == b"0\r\n":
                break
            *events, held = (held + chunk[:-2]).split(b"\n\n")  # a proxy may cut anywhere
            for event in events:
                _, found, stamp = event.partition(b'"t":')
                if found:
                    delays.append(now - float(stamp[:-1]))
    writer.close()


def request_bytes(body: dict[str, Any]) -> bytes:
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 500}], **body}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{len(data)}\r\n\r\n".encode() + data


def burst(port: int, count: int, busy_s: float = 0.0, *, cold: bool = False) -> list[float]:
    """Seconds to the first token of so many requests that arrive at once, each over a connection of its own.

    One thread with an epoll is light enough not to be what is measured.
    """
    sent = request_bytes({"stream": True, "n": 1, "rate": 0, "busy": busy_s, "cold": cold})
    poll, began, firsts = select.epoll(), dict[int, float](), list[float]()
    sockets: dict[int, socket.socket] = {}
    try:
        for _ in range(count):
            each = socket.create_connection(("127.0.0.1", port), _LIMIT_S)
            each.setblocking(False)
            sockets[each.fileno()] = each
            began[each.fileno()] = time.perf_counter()
            each.send(sent)
            poll.register(each, select.EPOLLIN)
        seen = dict.fromkeys(sockets, b"")
        until = time.perf_counter() + _LIMIT_S
        while seen:
            if time.perf_counter() > until:
                raise TimeoutError(f"{len(seen)} of {count} requests were not answered")
            for number, _ in poll.poll(1.0):
                data = sockets[number].recv(1 << 16)
                now = time.perf_counter()
                if not data or (not seen[number] and not data.startswith(b"HTTP/1.1 200 ")):
                    raise ConnectionError(f"refused or cut: {(seen[number] + data)[:300]!r}")
                if number in began and b"data: {" in seen[number] + data:
                    firsts.append(now - began.pop(number))
                seen[number] += data
                if seen[number].endswith(b"0\r\n\r\n"):
                    if b"[DONE]" not in seen[number]:
                        raise ValueError(f"not an answer: {seen[number][:300]!r}")
                    del seen[number]
                    poll.unregister(number)
    finally:
        poll.close()
        for each in sockets.values():
            each.close()
    return firsts


def compare_bursts(parts: dict[str, Part], args: argparse.Namespace) -> None:
    """Rounds that take turns, so that what else the machine does hits all of them alike."""
    medians: dict[str, list[float]] = {name: [] for name in parts}
    slowest: dict[str, list[float]] = {name: [] for name in parts}
    before: dict[str, float] = {}
    for number in range(args.rounds + 1):
        for name, part in parts.items():
            firsts = burst(part.port, args.burst, args.busy_ms / 1000, cold=args.cold)
            if number:  # the first one warms up
                medians[name].append(statistics.median(firsts))
                slowest[name].append(max(firsts))
            else:
                before[name] = part.cpu_s()
            time.sleep(args.pause)
    straight, quickest = statistics.median(medians["straight"]), min(medians["straight"])
    print(f"{args.burst} requests at once, {args.rounds} rounds, {args.busy_ms:g} ms of the worker's front for each")
    for name, part in parts.items():
        first, last = statistics.median(medians[name]), statistics.median(slowest[name])
        cpu = (part.cpu_s() - before[name]) / (args.rounds * args.burst)
        print(
            f"{name:<18}first token p50 {1000 * first:7.1f} ms ({1000 * (first - straight):+6.1f})"
            f"   best round {1000 * min(medians[name]):7.1f} ms ({1000 * (min(medians[name]) - quickest):+6.1f})"
            f"   slowest {1000 * last:7.1f} ms"
            + (f"   CPU {1e6 * cpu:5.0f} us per request" if name != "straight" else "")
        )


async def measure(part: Part, args: argparse.Namespace) -> dict[str, float]:
    port, delays = part.port, list[float]()
    paced = {"stream": True, "n": int(args.rate * args.seconds), "rate": args.rate}
    before = part.cpu_s()
    await asyncio.gather(*(request(port, paced, delays) for _ in range(args.streams)))
    cpu = part.cpu_s() - before
    result = {"cpu_s_per_1M": cpu / len(delays) * 1e6, "delay_p50_us": statistics.median(delays) * 1e6}
    flat: list[float] = []
    began = time.monotonic()
    await asyncio.gather(*(request(port, {"stream": True, "n": 5000, "rate": 0}, flat) for _ in range(32)))
    result["flat_tokens_per_s"] = len(flat) / (time.monotonic() - began)
    whole: list[float] = []
    began, before = time.monotonic(), part.cpu_s()
    await asyncio.gather(*(request(port, {}, whole, times=200) for _ in range(32)))
    result["requests_per_s"] = len(whole) / (time.monotonic() - began)
    result["cpu_us_per_request"] = 1e6 * (part.cpu_s() - before) / len(whole)
    one: list[float] = []
    await request(port, {}, one, times=500)
    result["request_p50_us"] = statistics.median(one) * 1e6
    return result


def compare_streams(parts: dict[str, Part], args: argparse.Namespace, run: Callable[[Any], Any]) -> None:
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in parts}
    for _ in range(args.rounds):
        for name, part in parts.items():
            rows[name].append(run(measure(part, args)))
    print(f"{args.streams} streams of {args.rate:g} tokens/s for {args.seconds:g} s, medians of {args.rounds}")
    for name, found in rows.items():
        figures = {key: statistics.median(row[key] for row in found) for key in found[0]}
        print(f"{name:<18}" + "  ".join(f"{key} {value:,.1f}" for key, value in figures.items()))


def open_parts(folder: Path, args: argparse.Namespace, opened: list[Part]) -> dict[str, Part]:
    """Everything that is compared, by name."""
    socket_path = str(folder / "worker.sock")
    mock = start("worker", "--socket", socket_path)
    opened.append(mock)
    parts = {"straight": mock}
    ways = {"socket": ("--socket", socket_path), "TCP": ("--port", str(mock.port))}
    for way, words in ways.items():
        if way in args.ways:
            parts[f"fcd, {way}"] = start("gateway", *words)
            opened.append(parts[f"fcd, {way}"])
            if args.tree is not None:
                parts[f"other fcd, {way}"] = start("gateway", *words, tree=args.tree.resolve())
                opened.append(parts[f"other fcd, {way}"])
            nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
            if nginx:
                there = socket_path if way == "socket" else ""
                parts[f"nginx, {way}"] = start_nginx(nginx, folder / f"nginx-{way}", there, mock.port)
                opened.append(parts[f"nginx, {way}"])
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--burst", type=int, default=0, help="so many requests at once instead of long streams")
    parser.add_argument("--busy-ms", type=float, default=0.0, help="what a request costs the worker's front")
    parser.add_argument("--cold", action="store_true", help="each request needs a new connection to the worker")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two bursts")
    parser.add_argument("--ways", nargs="+", choices=("socket", "TCP"), default=["socket", "TCP"])
    parser.add_argument("--tree", type=Path, help="another checkout, whose daemon is measured beside this one's")
    parser.add_argument("--role", choices=("worker", "gateway"), help=argparse.SUPPRESS)
    parser.add_argument("--socket", default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rounds = args.rounds or (20 if args.burst else 3)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if args.role:
            runner.run((worker if args.role == "worker" else gateway)(args.socket, args.port))
            return
        opened: list[Part] = []
        with tempfile.TemporaryDirectory() as folder:
            try:
                parts = open_parts(Path(folder), args, opened)
                load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
                print(f"{os.cpu_count()} cores, load average {load}, Python {sys.version.split()[0]}")
                if args.burst:
                    compare_bursts(parts, args)
                else:
                    compare_streams(parts, args, runner.run)
            finally:
                for part in opened:
                    part.stop()


if __name__ == "__main__":
    main()
