"""A blind battle in a real terminal: two built-in models, a real daemon, a vote, and the leaderboard that shows it."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.harness import Home
from tests.e2e.test_tui_pty import CTRL_Q, ENTER, Terminal

pytestmark = pytest.mark.slow
F3, F4, LEFT = b"\x1bOR", b"\x1bOS", b"\x1b[D"
WIDE = (120, 36)


def names_in(text: str) -> bool:
    """Whether the interface itself names a model; what the answers say is the daemon's to cover."""
    lines = text.splitlines()
    return any("guide" in line for line in [*lines[:2], *lines[-7:]])


def test_battle_vote_and_board(own_daemon: Home) -> None:
    terminal = Terminal(own_daemon, "tui", size=WIDE)
    try:
        terminal.wait("● daemon", within=60)
        terminal.type(F4)
        terminal.wait("no votes yet", within=20)
        terminal.type(F3)
        terminal.wait("Ask both")
        terminal.type("What is two plus three?")
        terminal.type(ENTER)
        text = terminal.wait(lambda text: "Model A" in text and text.count("done") >= 2, within=120)
        assert not names_in(text), text
        assert "tok/s" not in text
        terminal.type(LEFT)
        text = terminal.wait("Your vote: A is better")
        assert not names_in(text), text
        terminal.type("z")
        terminal.wait(lambda text: "Vote, or ask both" in text)
        terminal.type("b")
        terminal.wait("Your vote: B is better")
        text = terminal.wait(lambda text: "A = guide" in text and "B = guide" in text, within=20)
        assert "guide-mini" in text
        assert "tok/s" in text
        assert "Your vote: B is better" in text or "Not counted" in text

        terminal.type(F4)
        terminal.type("v")
        terminal.wait(lambda text: "What is two plus three?" in text and "B is better" in text, within=20)
        votes = json.loads(own_daemon.fcd("arena", "votes", "--json").stdout)
        assert "two plus three" in json.dumps(votes)
        terminal.type(CTRL_Q)
    finally:
        terminal.close()


def test_vote_as_soon_as_something_is_said_counts_at_once(shared_daemon: Home) -> None:
    terminal = Terminal(shared_daemon, "tui", size=(80, 24))
    try:
        terminal.wait("● daemon", within=60)
        terminal.type(F3)
        terminal.wait("Ask both")
        terminal.type("Count to one hundred")
        terminal.type(ENTER)
        terminal.wait(lambda text: re.search(r"writing|done", text.splitlines()[1]), within=120)
        terminal.type(LEFT)
        terminal.wait("Your vote: A is better")
        terminal.type("r")
        terminal.wait(lambda text: "A = guide" in text and "±" in text, within=20)
        terminal.type(F4)
        terminal.wait(lambda text: "RATING" in text and "guide-mini" in text and "●" in text, within=20)
        terminal.type(CTRL_Q)
    finally:
        terminal.close()
