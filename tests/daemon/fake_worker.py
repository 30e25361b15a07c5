"""A worker program without a model: it takes `fcd worker run`'s arguments, registers, beats and answers /health.

FAKE_MODE makes it misbehave: `no_register`, `crash` (exit code 3 before registering), `error` (says why and leaves),
`ignore_term`, `grandchild` (leaves a child of its own behind), `slow` (progress every 50 ms until FAKE_GO exists).
`sleeper` (can be put to sleep; each time is a line in FAKE_TURNS), `insomniac` (says so and refuses),
`oversleeper` (sleeps, and refuses to wake).
`out_of_memory` (says that memory ran out, and leaves, until FAKE_GO exists).
FAKE_LOG names a file to which each start appends its pid; FAKE_PIDS one for grandchildren.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def post(url: str, body: object) -> object:
    token = os.environ["FCD_JOIN_TOKEN"]
    request = urllib.request.Request(
        url,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.loads(answer.read())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("model")
    for name in ("controller", "host", "port", "worker-id", "model-names", "socket"):
        parser.add_argument(f"--{name}", default="")
    options, _ = parser.parse_known_args()
    return options


counts = {"running": 0, "left": 0, "served": 0}
"""Of the answers: under way, given up because the client left, complete."""


async def answer(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer as `metadata` of the body says: `tokens`, `first` and `gap` (seconds), `die`.

    `die` kills the worker `before` its first byte, once (the file `unless` remembers that), or `after` its first token.
    """
    lines = (line.split(b":") for line in head.lower().split(b"\r\n"))
    length = next(int(words[1]) for words in lines if words[0] == b"content-length")
    body = json.loads(await reader.readexactly(length))
    wish = body.get("metadata", {})
    if wish.get("die") == "before" and not Path(wish["unless"]).exists():
        Path(wish["unless"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    counts["running"] += 1
    gone = asyncio.create_task(reader.read(1))
    try:
        await write_answer(body, wish, writer, gone)
        counts["served"] += 1
    except ConnectionError:
        counts["left"] += 1
    finally:
        counts["running"] -= 1
        gone.cancel()
        writer.close()


async def write_answer(
    body: dict[str, object], wish: dict[str, str], writer: asyncio.StreamWriter, gone: asyncio.Task[bytes]
) -> None:
    await pause(float(wish.get("first", 0)), gone)
    tokens = int(wish.get("tokens", 3))
    if not body.get("stream"):
        whole = json.dumps({"choices": [{"message": {"content": str(os.getpid())}}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(f"Content-Length: {len(whole)}\r\n\r\n".encode())
        writer.write(whole)
        await writer.drain()
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(tokens):
        piece = f'data: {{"choices": [{{"delta": {{"content": "{number} "}}}}], "pid": {os.getpid()}}}\n\n'.encode()
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        if wish.get("die") == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        await pause(float(wish.get("gap", 0)), gone)
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    await writer.drain()


async def pause(seconds: float, gone: asyncio.Task[bytes]) -> None:
    """Wait, unless the other side hangs up meanwhile."""
    await asyncio.wait((gone,), timeout=seconds)
    if gone.done():
        raise ConnectionResetError


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1].decode()
    if path == "/v1/chat/completions":
        await answer(head, reader, writer)
        return
    body = json.dumps({"path": path, "pid": os.getpid(), **counts}).encode()
    if path == "/exit":
        os._exit(9)
    if path in ("/sleep?level=1", "/wake_up"):
        await turn(path, writer)
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
    writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


async def turn(path: str, writer: asyncio.StreamWriter) -> None:
    """Go to sleep, or wake up."""
    mode = os.environ.get("FAKE_MODE", "")
    refused = mode == "insomniac" or (mode == "oversleeper" and path == "/wake_up")
    with Path(os.environ["FAKE_TURNS"]).open("a") as turns:
        turns.write(f"{os.getpid()} {path}\n")
    body = b'{"error": {"message": "It will not."}}' if refused else b"{}"
    status = "503 Service Unavailable" if refused else "200 OK"
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    await writer.drain()
    writer.close()


async def leave_with_parent() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    os._exit(0)


async def main() -> None:
    options = parse()
    mode = os.environ.get("FAKE_MODE", "")
    if os.environ.get("FAKE_LOG"):
        with Path(os.environ["FAKE_LOG"]).open("a") as starts:
            starts.write(f"{os.getpid()}\n")
    watch = asyncio.get_running_loop().create_task(leave_with_parent())
    say(event="progress", progress={"stage": "loading", "done": 1, "total": 2})
    if mode == "crash":
        print("the fake crashes", file=sys.stderr, flush=True)
        os._exit(3)
    if mode == "out_of_memory" and not Path(os.environ["FAKE_GO"]).exists():
        say(event="error", error="CUDA out of memory. Tried to allocate 2.00 GiB.")
        os._exit(1)
    if mode == "error":
        say(event="error", error="The fake cannot load this.")
        os._exit(1)
    if mode == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "grandchild":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(os.environ["FAKE_PIDS"]).write_text(str(child.pid))
    if mode == "slow":
        while not Path(os.environ["FAKE_GO"]).exists():
            say(event="progress", progress={"stage": "loading"})
            await asyncio.sleep(0.05)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    if options.socket:
        await asyncio.start_unix_server(serve, options.socket)
    if mode == "no_register":
        await asyncio.sleep(600)
    url = f"http://127.0.0.1:{port}"
    registration = {
        "worker_name": url,
        "check_heart_beat": True,
        "worker_status": {"model_names": options.model_names.split(","), "speed": 1, "queue_length": 0},
        "multimodal": False,
        "fcd": {"openai_url": url, "socket": options.socket, "worker_id": options.worker_id, "pid": os.getpid(),
                "parallel": int(os.environ.get("FAKE_PARALLEL", "4")),
                "capabilities": ["chat", "sleep"] if mode in ("sleeper", "insomniac", "oversleeper") else []},
    }  # fmt: skip
    await asyncio.to_thread(post, f"{options.controller}/register_worker", registration)
    say(event="ready", address=url)
    while not watch.done():
        await asyncio.sleep(0.2)
        beat = {"worker_name": url, "queue_length": 0}
        known = await asyncio.to_thread(post, f"{options.controller}/receive_heart_beat", beat)
        if isinstance(known, dict) and not known["exist"]:
            await asyncio.to_thread(post, f"{options.controller}/register_worker", registration)


if __name__ == "__main__":
    asyncio.run(main())
