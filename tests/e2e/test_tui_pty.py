"""Types into the real interface in a pseudo-terminal, against a real daemon with the built-in model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.e2e.harness import Home, is_running, wait_for

pytestmark = pytest.mark.slow
ENTER, CTRL_Q, CTRL_R, CTRL_S, F5, F6, F8 = b"\r", b"\x11", b"\x12", b"\x13", b"\x1b[15~", b"\x1b[17~", b"\x1b[19~"


class Terminal:
    """A program in a terminal of its own, and what it shows."""

    def __init__(self, home: Home, *arguments: str, size: tuple[int, int] = (80, 24), **environ: str) -> None:
        columns, rows = size
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        kept = {name: value for name, value in home.environ.items() if name != "NO_COLOR"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fcd", *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ},
        )  # fmt: skip
        os.close(slave)

    def read(self, wait_s: float = 0.05) -> None:
        """Take in what the program wrote."""
        while select.select([self._master], [], [], wait_s)[0]:
            try:
                self._stream.feed(os.read(self._master, 65536))
            except OSError:
                return
            wait_s = 0.0

    @property
    def text(self) -> str:
        self.read()
        return "\n".join(line.rstrip() for line in self.screen.display)

    def type(self, keys: bytes | str) -> None:
        os.write(self._master, keys.encode() if isinstance(keys, str) else keys)

    def wait(self, words: str | Callable[[str], object], within: float = 60.0) -> str:
        """The screen once it shows something; fails with the screen when it does not in time."""
        deadline = time.monotonic() + within
        while True:
            text = self.text
            if words in text if isinstance(words, str) else words(text):
                return text
            assert time.monotonic() < deadline, f"never showed {words}:\n{text}"
            assert self.process.poll() is None, f"ended:\n{text}"

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        os.close(self._master)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.stop()


def saved_answers(home: Home) -> list[str]:
    """Every answer that the daemon keeps of the latest conversation, as it is on disk."""
    with contextlib.closing(sqlite3.connect(home.folder / "data" / "fcd.db", timeout=10)) as db:
        rows = db.execute(
            "SELECT content FROM chat_messages WHERE role = 'assistant' AND content <> '' AND chat ="
            " (SELECT id FROM chats ORDER BY updated_at DESC LIMIT 1) ORDER BY number"
        )
        return [row[0] for row in rows]


def words_of(text: str) -> str:
    return " ".join(text.replace("▏", " ").split())


def test_a_whole_evening(home: Home) -> None:
    terminal = Terminal(home, "tui")
    try:
        terminal.wait("Ask anything", within=20)
        terminal.wait("● daemon", within=60)
        terminal.type("What can you do?")
        terminal.type(ENTER)
        text = terminal.wait("tok/s", within=90)
        terminal.wait(lambda text: "esc stop" not in text)
        answers = wait_for(lambda: saved_answers(home), within=10)
        assert words_of(answers[0])[:40] in words_of(terminal.text), text
        terminal.type(CTRL_R)
        terminal.wait("2/2", within=30)
        terminal.wait(lambda text: "esc stop" not in text)

        terminal.type(F5)
        terminal.wait(lambda text: "guide" in text and "ready" in text and "TOK/S" in text)
        terminal.type(F6)
        terminal.wait("listening on")
        terminal.type(b"\x1bOQ")

        pid = home.status()["pid"]
        os.kill(pid, signal.SIGKILL)
        terminal.wait("daemon gone", within=20)
        terminal.wait("F8")
        assert words_of(saved_answers(home)[0])[:20] in words_of(terminal.text)
        wait_for(lambda: not is_running(pid), within=10)
        terminal.type(F8)
        terminal.wait("● daemon", within=60)
        terminal.type("Hello again")
        terminal.type(ENTER)
        terminal.wait(lambda text: text.count("tok/s") == 2 and "esc stop" not in text, within=90)
        assert len(saved_answers(home)) == 3

        terminal.type(CTRL_Q)
        wait_for(lambda: terminal.process.poll() is not None, within=10)
        assert terminal.process.returncode == 0
        assert home.status()["ready"], "leaving leaves the daemon"
    finally:
        terminal.close()


LONG = "Count from 1 to 90."


def test_an_answer_goes_on_without_its_terminal_and_two_terminals_see_it(shared_daemon: Home) -> None:
    first = Terminal(shared_daemon, "tui")
    try:
        first.wait("● daemon", within=60)
        first.wait(lambda text: "guide" in text and "loading" not in text, within=60)
        first.type(LONG)
        first.type(ENTER)
        first.wait(lambda text: "tok" in text and "esc stop" in text, within=60)
        first.process.kill()
        first.process.wait()
    finally:
        first.close()
    info = json.loads(shared_daemon.fcd("chats", "list", "--json").stdout)["chats"][0]
    assert info["title"] == LONG
    one, two = Terminal(shared_daemon, "tui"), Terminal(shared_daemon, "tui", size=(120, 40))
    try:
        one.wait("● daemon", within=60)
        one.type(CTRL_S)
        one.wait("search what was said")
        one.wait(LONG)
        one.type(ENTER)
        one.wait(lambda text: "tok/s" in text and "esc stop" not in text and "search what" not in text, within=90)
        answer = saved_answers(shared_daemon)[-1]
        assert words_of(answer)[-20:] in words_of(one.text)
        two.wait("● daemon", within=60)
        two.wait(LONG)
        two.type(CTRL_S)
        two.wait("enter open")
        two.type(ENTER)
        two.wait(lambda text: "tok/s" in text, within=30)
        one.type("Hello there")
        one.type(ENTER)
        two.wait(lambda text: "Hello there" in text and text.count("tok/s") == 2, within=60)
        one.wait(lambda text: "esc stop" not in text and "Hello there" in text, within=60)
        one.type(CTRL_R)
        two.wait("2/2", within=60)
    finally:
        one.close()
        two.close()


def test_without_colour_and_unicode(shared_daemon: Home) -> None:
    terminal = Terminal(shared_daemon, "tui", "--ascii", NO_COLOR="1", LANG="C")
    try:
        terminal.wait("* daemon", within=60)
        terminal.type("Hi")
        terminal.type(ENTER)
        text = terminal.wait(lambda text: "tok/s" in text and "esc stop" not in text, within=90)
        assert text.isascii()
        terminal.type(b"\x1bOP")
        assert terminal.wait("Send the prompt").isascii()
    finally:
        terminal.close()
