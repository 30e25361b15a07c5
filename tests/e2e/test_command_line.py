"""The commands that README shows, typed for real."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import Home

pytestmark = pytest.mark.slow


def test_one_question_one_answer(shared_daemon: Home) -> None:
    done = shared_daemon.fcd("chat", "What can you do?")
    assert "fcd" in done.stdout
    assert done.stdout.endswith("\n")


def test_a_pipe_is_joined_to_the_question(shared_daemon: Home) -> None:
    done = shared_daemon.fcd("chat", "Repeat this in upper case:", input="hello")
    assert done.stdout.strip()


def test_ping_and_ps_tell_the_truth(shared_daemon: Home) -> None:
    assert shared_daemon.fcd("ping", "guide").returncode == 0
    assert shared_daemon.fcd("ping", "no-such-model", check=False).returncode in (1, 4)
    listed = json.loads(shared_daemon.fcd("ps", "--json").stdout)
    rows = listed["workers"] if isinstance(listed, dict) else listed
    ready = [row for row in rows if "guide" in row["models"]]
    assert [row["state"] for row in ready] == ["ready"]
    assert ready[0]["pid"] == shared_daemon.worker_pid()


@pytest.mark.parametrize(
    "line",
    [
        "load nope", "chat -m nope hi", "run nope hi", "ping nope", "unload nope",
        "worker start nope", "worker stop nope", "worker restart nope", "worker show nope",
        "worker logs nope", "worker detach nope", "daemon leave http://nope:1",
    ],
)  # fmt: skip
def test_what_is_not_there_is_4(shared_daemon: Home, line: str) -> None:
    done = shared_daemon.fcd(*line.split(), check=False)
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert "nope" in done.stderr


def test_the_old_module_spelling_works(shared_daemon: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fcd.cli", "--model-path", "guide", "Hello"],
        capture_output=True, text=True, env=shared_daemon.environ, stdin=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_commands_without_a_daemon_say_so(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for command in (["daemon", "status"], ["daemon", "stop"], ["ps"]):
        done = home.fcd(*command, check=False)
        assert done.returncode == 3, (command, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
