"""How much it costs to show an answer while it is written: fcd's Chat screen beside Textual's own streaming Markdown.

    python benchmarks/tui_stream.py [--tokens 1500] [--rate 150] [--kinds prose,panes:list] [--json]

`panes:KIND` writes two answers at once (half as many tokens each), `history:KIND` one below 200 messages.
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
from collections.abc import AsyncIterator, Callable
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


def ours(text: str, rate: float, lag: Lag, scene: str) -> None:
    from tests.tui.fake import FakeDaemon, make_app
    from tests.tui.fake_chats import say_something
    from tui.app import FcdApp
    from tui.screens.chat import ChatScreen

    daemon = FakeDaemon()

    async def one(app: FcdApp) -> None:
        screen = app.screen
        assert isinstance(screen, ChatScreen)
        with Measured(lag):
            screen.prompt.put("Go on")
            screen.prompt.action_send()
            await until(lambda: screen.busy)
            async for piece in tokens(text, rate):
                daemon.say(piece)
            daemon.end()
            await until(lambda: not screen.busy)

    async def two(app: FcdApp) -> None:
        await app.run_action("go_battle")
        # The screen is there before it is composed: on a busy machine the prompt comes some time after it.
        await until(lambda: hasattr(app.screen, "battle") and len(app.screen.query("#prompt")) > 0)
        screen: Any = app.screen
        screen.prompt.put("Go on")
        screen.prompt.action_send()
        await until(lambda: daemon.arena.calls)
        with Measured(lag):
            async for piece in tokens(text, rate / 2):
                daemon.arena.write("a", piece)
                daemon.arena.write("b", piece)
            daemon.arena.done()
            await until(lambda: not screen.busy)

    async def drive(app: FcdApp) -> None:
        try:
            await until(lambda: app.link.state == "up")
            await asyncio.sleep(0.5)
            if scene == "history":
                assert isinstance(app.screen, ChatScreen)
                await app.screen.open_chat(chat)
                await asyncio.sleep(1.0)
            await (two if scene == "panes" else one)(app)
        except Exception as error:
            failed.append(error)
        finally:
            app.exit()

    chat = ""
    failed: list[Exception] = []

    async def start() -> None:
        nonlocal chat
        if scene == "history":
            answer = KINDS["mixed"](800)[:800]
            chat = await say_something(daemon, *[(f"Question {n}", answer) for n in range(_HISTORY // 2)])
        app = make_app(daemon)
        app.call_later(lambda: app.run_worker(drive(app)))
        await app.run_async()

    asyncio.run(start())
    if failed:
        raise failed[0]  # the app's end would have hidden it


def stock(text: str, rate: float, lag: Lag, scene: str) -> None:
    from textual.app import App, ComposeResult
    from textual.containers import Horizontal, VerticalScroll
    from textual.widgets import Markdown, TextArea

    panes = 2 if scene == "panes" else 1

    class Stock(App[None]):
        CSS = "TextArea { height: 3 }"

        def compose(self) -> ComposeResult:
            with Horizontal():
                for _ in range(panes):
                    with VerticalScroll():
                        for _ in range(_HISTORY if scene == "history" else 0):
                            yield Markdown(KINDS["mixed"](400)[:400])
                        yield Markdown(classes="last")
            yield TextArea()

        def on_mount(self) -> None:
            for scroll in self.query(VerticalScroll):
                scroll.anchor()
            self.run_worker(self.drive())

        async def drive(self) -> None:
            await asyncio.sleep(6.0 if scene == "history" else 0.5)
            with Measured(lag):
                await asyncio.gather(*[self.write(each) for each in self.query(".last").results(Markdown)])
            self.exit()

        async def write(self, markdown: Markdown) -> None:
            stream = Markdown.get_stream(markdown)
            held, written = "", time.perf_counter()
            async for piece in tokens(text, rate / panes):
                held += piece
                if time.perf_counter() - written >= 0.05:
                    await stream.write(held)
                    held, written = "", time.perf_counter()
            await stream.write(held)
            await stream.stop()

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


_HISTORY = 200
"""Messages that stand above the answer, in the scene `history`."""
RESULT: dict[str, float] = {}


def child(side: str, kind: str, count: int, rate: float, report: str) -> None:
    lag = Lag()
    scene, _, plain = kind.rpartition(":")
    length = count * 4 // (2 if scene == "panes" else 1)
    (ours if side == "fcd" else stock)(KINDS[plain](length)[:length], rate, lag, scene)
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
    last = b""
    while True:
        try:
            if select.select([master], [], [], 1.0)[0]:
                last = os.read(master, 1 << 16)
                if not last:
                    break
        except OSError:
            break
    os.waitpid(process, 0)
    os.close(master)
    if not report.exists():
        raise SystemExit(f"{side} did not get through {kind}:\n{last[-4000:].decode(errors='replace')}")
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
