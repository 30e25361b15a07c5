"""The interface beside others, in one run: how soon it is there, and what an answer costs while it is written.

    python -m benchmarks.tui [--only frame,stream,open] [--runs 5] [--tokens 1500] [--peers FOLDER] [--json]

Every program runs in a pseudo-terminal of 120x40, one after the other, fcd's turn and the other's in alternation.
`frame`: from the start of the process to the first screen with words on it; elia and oterm in environments of
their own, which are made with pip in the folder of peers the first time. All of them run from bytecode that the first
run, which is not counted, has written, as installed programs do; the terminal answers what real ones answer; and
oterm's animated splash, which has no words for seconds, is switched off in its settings (it asks nothing of a server
before its first screen). `stream`: lag of the event loop and CPU per
token, beside Textual's own `Markdown.get_stream`; fcd's figure has the test's daemon in it, which runs in the same
process. `open`: from asking for a conversation of 500 messages to its last words.
The load of the machine is printed with the figures: ratios say more than seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
import venv
from pathlib import Path
from typing import Any

from benchmarks.tui_stream import KINDS, measure

PEERS = {"elia": "elia-chat", "oterm": "oterm"}
"""Command and package."""
_ESCAPES = re.compile(rb"\x1b(\[[0-9;?<>=]*[a-zA-Z]|\][^\x07]*(\x07|\x1b\\)|P.*?\x1b\\|.)", re.DOTALL)
_FEW = 60
"""Letters that make a screen; the same for every program, so that a splash counts as much as a screen to work in."""
SCENES = ("mixed", "list", "table", "fence", "panes:mixed", "panes:list", "history:mixed", "history:fence")
_ANSWERS = {b"\x1b[c": b"\x1b[?62;22c", b"\x1b[16t": b"\x1b[6;20;10t", b"\x1b[14t": b"\x1b[4;800;1200t"}
"""What programs ask a terminal at their start, and what it says: its kind, the size of a cell, of the window."""
ENVIRON = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "COLORTERM": "truecolor"}


def first_frame(command: list[str], home: Path, within: float = 40.0) -> float:
    """Seconds from the start of a process to the first screen with words on it; `inf` where it does not come."""
    process, master = pty.fork()
    if process == 0:
        os.environ.update(ENVIRON, HOME=str(home), FCD_HOME=str(home / "fcd"), FCD_URL="http://127.0.0.1:1")
        os.environ.update(PYTHONPYCACHEPREFIX=str(home / "bytecode"), OTERM_DATA_DIR=str(home / "oterm"))
        for name in ("NO_COLOR", "PYTHONDONTWRITEBYTECODE"):
            os.environ.pop(name, None)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.execv(command[0], command)
    begun, seen, found = time.perf_counter(), b"", float("inf")
    while time.perf_counter() - begun < within:
        if not select.select([master], [], [], 0.05)[0]:
            continue
        try:
            fresh = os.read(master, 65536)
        except OSError:
            break
        for asked, answer in _ANSWERS.items():
            if asked in fresh:
                os.write(master, answer)
        seen += fresh
        if sum(chr(byte).isalpha() for byte in _ESCAPES.sub(b"", seen) if byte < 128) >= _FEW:
            found = time.perf_counter() - begun
            break
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    os.close(master)
    return found


def peer(name: str, folder: Path) -> Path:
    """A peer's command, in an environment of its own that is made the first time."""
    home = folder / name
    command = home / "bin" / name
    if not command.exists():
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", PEERS[name]]
        subprocess.run(pip, check=True)
    return command


def frames(runs: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of each run, the first (which fills caches) left out."""
    commands = {"fcd": [sys.executable, "-m", "fcd", "tui"]}
    for name in PEERS:
        try:
            commands[name] = [str(peer(name, folder))]
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "oterm").mkdir()
        (Path(home) / "oterm" / "config.json").write_text('{"splash-screen": false}', encoding="utf-8")
        for run in range(runs + 1):
            for name, command in commands.items():
                seconds = first_frame(command, Path(home))
                if run:
                    found[name].append(seconds)
    return found


def opening(messages: int, runs: int) -> list[float]:
    """Seconds from asking for it to the last words of a conversation of so many messages."""
    from tests.tui.fake import FakeDaemon, make_app, wait_until
    from tests.tui.fake_chats import say_something

    answer = KINDS["mixed"](800)[:800]

    async def once() -> float:
        daemon = FakeDaemon()
        turns = [(f"Question {n}", f"{answer}\n\nanswer {n}") for n in range(messages // 2)]
        chat = await say_something(daemon, *turns)
        app = make_app(daemon)
        async with app.run_test(size=(120, 40)) as pilot:
            await wait_until(pilot, lambda: app.link.state == "up")
            last = f"answer {messages // 2 - 1}"

            def shown() -> bool:
                return any(last in strip.text for strip in app.screen._compositor.render_strips())

            screen: Any = app.screen
            begun = time.perf_counter()
            await screen.open_chat(chat)
            while not shown():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            took = time.perf_counter() - begun
            await pilot.pause(0.5)
            return took

    return [asyncio.run(once()) for _ in range(runs)]


def streams(tokens: int, rate: float, scenes: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    with tempfile.TemporaryDirectory() as folder:
        return {
            scene: {side: measure(side, scene, tokens, rate, Path(folder)) for side in ("fcd", "stock")}
            for scene in scenes
        }


def report(found: dict[str, Any], tokens: int) -> None:
    print(f"load average {found['load'][0]:.1f} before, {os.getloadavg()[0]:.1f} after, of {os.cpu_count()} cores\n")
    if "frame" in found:
        mine = statistics.median(found["frame"]["fcd"])
        for name, seconds in found["frame"].items():
            middle = statistics.median(seconds)
            print(f"first frame  {name:<6} median {middle:5.2f} s  best {min(seconds):5.2f} s  {middle / mine:5.1f}x")
    if "open" in found:
        middle, best = statistics.median(found["open"]), min(found["open"])
        print(f"open a conversation of 500 messages: median {middle:.2f} s, best {best:.2f} s")
    for scene, sides in found.get("stream", {}).items():
        mine, theirs = sides["fcd"], sides["stock"]
        cpu = [side["cpu_s"] / tokens * 1000 for side in (mine, theirs)]
        print(
            f"{scene:<14} fcd p95 {mine['p95']:6.1f} ms {cpu[0]:5.2f} ms/token   "
            f"Markdown p95 {theirs['p95']:6.1f} ms {cpu[1]:5.2f} ms/token   CPU {cpu[0] / cpu[1]:4.0%} of its"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="frame,open,stream")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--peers", type=Path, default=Path(os.environ.get("FCD_TEST_PEERS", "")) or None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    made = None if options.peers and str(options.peers) != "." else tempfile.mkdtemp()
    wanted = options.only.split(",")
    found: dict[str, Any] = {"load": os.getloadavg()}
    try:
        if "frame" in wanted:
            found["frame"] = frames(options.runs, Path(made or options.peers))
        if "open" in wanted:
            found["open"] = opening(500, options.runs)
        if "stream" in wanted:
            found["stream"] = streams(options.tokens, options.rate, options.scenes.split(","))
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
    if options.json:
        print(json.dumps(found))
    else:
        report(found, options.tokens)


if __name__ == "__main__":
    main()
