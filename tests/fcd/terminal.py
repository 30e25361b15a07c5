"""Runs the command line: to its end, or in a real pseudo-terminal that a test types into."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROMPT = "\x1b[?2004h"
"""What prompt_toolkit writes when it begins to read: the terminal shall mark pasted text."""


def environment(home: Path, **more: str) -> dict[str, str]:
    """One that leads nowhere but to `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FCD_", "HF_", "XDG_"))}
    return {
        **kept,
        "FCD_HOME": str(home),
        "FCD_PORT": "9",
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
        **more,
    }


def fcd(
    *words: str, env: Mapping[str, str], text: str | None = None, module: str = "fcd"
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end; without `text`, stdin is empty."""
    command = [sys.executable, "-m", module, *words]
    feed = {"stdin": subprocess.DEVNULL} if text is None else {"input": text}
    return subprocess.run(command, capture_output=True, text=True, env=dict(env), cwd=ROOT, timeout=60, **feed)


class Terminal:
    """A program in a pseudo-terminal. `seen` is everything that it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.seen = ""
        self._read_to = 0

    def expect(self, text: str, within: float = 30.0) -> str:
        """Wait until `text` is written after what was expected before; returns what came up to it."""
        deadline = time.monotonic() + within
        while (found := self.seen.find(text, self._read_to)) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"{text!r} did not come. Since then: {self.seen[self._read_to :]!r}")
        before = self.seen[self._read_to : found]
        self._read_to = found + len(text)
        return before

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def line(self, text: str) -> None:
        """Type a line at the next prompt."""
        self.expect(PROMPT)
        self.send(text + "\r")

    def wait(self, within: float = 30.0) -> int:
        """The exit code; what is still written is read meanwhile."""
        deadline = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end: {self.seen[-500:]!r}"
            self._read(0.05)
        while self._read(0.05):
            pass
        return self.process.returncode

    @property
    def plain(self) -> str:
        """What was written, without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r", "", self.seen)

    def _read(self, timeout: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], timeout)
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode("utf-8", errors="replace")
        return bool(data)


@contextmanager
def terminal(*words: str, env: Mapping[str, str], rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    """`fcd WORDS` in a pseudo-terminal of its own, which is its controlling one, so that Ctrl-C is a signal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "fcd", *words],
        stdin=slave, stdout=slave, stderr=slave, env=dict(env), cwd=ROOT,
        start_new_session=True, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)
