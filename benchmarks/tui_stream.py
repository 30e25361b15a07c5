"""How much it costs to show an answer while it is written: fcd's Chat screen beside Textual's own streaming Markdown.

    python benchmarks/tui_stream.py [--tokens 1500] [--rate 150] [--kinds prose,list] [--json]

Both are drawn 20 times a second into a real pseudo-terminal of 120x40, from one process each, one after the other in
one run. Lag is how late a 10 ms timer of the event loop fires: what somebody who types meanwhile would feel. CPU is
the whole process's, per token. A token is four characters.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

PROSE = "The cache keeps **keys and values** of every token, so a step reads them all; `bf16` halves that. "
KINDS = {
    "prose": lambda n: "\n\n".join(PROSE * 4 for _ in range(n // 400 + 1)),
    "paragraph": lambda n: PROSE * (n // len(PROSE) + 1),
    "list": lambda n: "".join(f"- item {i} with **bold** words and `code` in it\n" for i in range(n // 45 + 1)),
    "nested": lambda n: "".join(
        f"{i}. step {i}\n" + "".join(f"   - part {j} of **it**\n" for j in range(6)) for i in range(n // 150 + 1)
    ),
    "table": lambda n: "| name | value | note |\n|---|---:|---|\n"
    + "".join(f"| row {i} | {i * i} | some `code` |\n" for i in range(n // 30 + 1)),
    "fence": lambda n: "```python\n" + "".join(
        f"def f{i}(x: int) -> int:\n    return x + {i}  # add\n\n" for i in range(n // 55 + 1)
    ) + "```\n",
    "mixed": lambda n: "".join(
        f"## Part {i}\n\n{PROSE * 2}\n\n- one\n- two\n\n```python\nx = {i}\n```\n\n"
        f"| a | b |\n|---|---|\n| 1 | {i} |\n\n"
        for i in range(n // 290 + 1)
    ),
}  # fmt: skip


class Lag:
    """Lateness of a 10 ms timer, in ms."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            self.late.append((time.perf_counter() - due) * 1000)

    def at(self, share: float) -> float:
        ordered = sorted(self.late)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def tokens(text: str, rate: float) -> AsyncIterator[str]:
    """Four characters at a time, at a steady rate whatever the reader does."""
    begun = time.perf_counter()
    for index in range(0, len(text), 4):
        wait = begun + index / 4 / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        yield text[index : index + 4]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def ours(text: str, rate: float, lag: Lag) -> None:
    from fcd.settings import Settings
    from fcd.wire.admin import WorkerInfo
    from tui.app import FcdApp
    from tui.chats import FileChats
    from tui.screens.chat import ChatScreen

    class Client:
        async def is_alive(self) -> bool:
            return True

        async def workers(self) -> list[WorkerInfo]:
            return [WorkerInfo("guide", ["guide"], "ready", context_length=8192)]

        async def watch(self) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield None

        async def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            async for piece in tokens(text, rate):
                yield {"choices": [{"delta": {"content": piece}}]}

    async def factory(address: object) -> Any:
        return Client()

    folder = Path(os.environ["BENCH_FOLDER"])
    app = FcdApp(Settings(), FileChats(folder), client_factory=factory)

    async def drive() -> None:
        await until(lambda: app.link.state == "up")
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        await asyncio.sleep(0.5)
        with Measured(lag):
            screen.prompt.put("Go on")
            screen.prompt.action_send()
            await until(lambda: screen.busy)
            await until(lambda: not screen.busy)
        app.exit()

    app.call_later(lambda: app.run_worker(drive()))
    app.run()


def stock(text: str, rate: float, lag: Lag) -> None:
    from textual.app import App, ComposeResult
    from textual.containers import VerticalScroll
    from textual.widgets import Markdown, TextArea

    class Stock(App[None]):
        CSS = "TextArea { height: 3 }"

        def compose(self) -> ComposeResult:
            with VerticalScroll():
                yield Markdown()
            yield TextArea()

        def on_mount(self) -> None:
            self.query_one(VerticalScroll).anchor()
            self.run_worker(self.drive())

        async def drive(self) -> None:
            await asyncio.sleep(0.5)
            markdown = self.query_one(Markdown)
            with Measured(lag):
                stream = Markdown.get_stream(markdown)
                held, written = "", time.perf_counter()
                async for piece in tokens(text, rate):
                    held += piece
                    if time.perf_counter() - written >= 0.05:
                        await stream.write(held)
                        held, written = "", time.perf_counter()
                await stream.write(held)
                await stream.stop()
            self.exit()

    Stock().run()


class Measured:
    """Runs the lag timer and counts CPU while it is open."""

    def __init__(self, lag: Lag) -> None:
        self._lag = lag

    def __enter__(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._lag.run())
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        RESULT.update(cpu_s=time.process_time() - self._cpu, wall_s=time.perf_counter() - self._wall)
        self._task.cancel()


RESULT: dict[str, float] = {}


def child(side: str, kind: str, count: int, rate: float, report: str) -> None:
    lag = Lag()
    text = KINDS[kind](count * 4)[: count * 4]
    (ours if side == "fcd" else stock)(text, rate, lag)
    result = {**RESULT, "p50": lag.at(0.5), "p95": lag.at(0.95), "max": max(lag.late)}
    Path(report).write_text(json.dumps(result), encoding="utf-8")


def measure(side: str, kind: str, count: int, rate: float, folder: Path) -> dict[str, float]:
    """Run one side in a terminal of its own."""
    report = folder / "report.json"
    process, master = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", LANG="C.UTF-8", BENCH_FOLDER=str(folder), COLORTERM="truecolor")
        os.environ.pop("NO_COLOR", None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.execv(sys.executable, [sys.executable, __file__, "--child", side, kind, str(count), str(rate), str(report)])
    while True:
        try:
            if select.select([master], [], [], 1.0)[0] and not os.read(master, 1 << 16):
                break
        except OSError:
            break
    os.waitpid(process, 0)
    os.close(master)
    result: dict[str, float] = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    import tempfile

    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if not options.json:
            print(f"{options.tokens} tokens at {options.rate:g} tok/s; lag in ms, CPU in ms per token\n")
            heads = f"{'fcd p95':>8} {'max':>6} {'CPU':>6}   {'stock p95':>9} {'max':>6} {'CPU':>6}   CPU ratio"
            print(f"{'kind':<10} {heads}")
        for kind in options.kinds.split(","):
            rows[kind] = {
                side: measure(side, kind, options.tokens, options.rate, Path(folder)) for side in ("fcd", "stock")
            }
            if not options.json:
                mine, theirs = rows[kind]["fcd"], rows[kind]["stock"]
                cpu = [side["cpu_s"] / options.tokens * 1000 for side in (mine, theirs)]
                print(
                    f"{kind:<10} {mine['p95']:8.1f} {mine['max']:6.0f} {cpu[0]:6.2f}   "
                    f"{theirs['p95']:9.1f} {theirs['max']:6.0f} {cpu[1]:6.2f}   {cpu[1] / cpu[0]:6.1f}x",
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])
    else:
        main()
