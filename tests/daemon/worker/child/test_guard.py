"""The guard around a server: what came of the command ends with the starter, however that ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import daemon.worker.child
from tests.e2e.harness import is_running, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descendants are found in /proc")

GUARD = Path(daemon.worker.child.__file__).with_name("guard.py")
# Starts one process after another, each in a session of its own, and so do those.
SPREADS = """
import subprocess, sys, time
while True:
    leaf = "import time; time.sleep(600)"
    middle = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-S', '-c', {leaf!r}], "
    middle += "start_new_session=True); print(p.pid, flush=True); time.sleep(600)"
    p = subprocess.Popen([sys.executable, "-S", "-c", middle], start_new_session=True)
    print(p.pid, flush=True)
    time.sleep(0.05)
"""


def guarded(pids: Path, code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-E", str(GUARD), "open", sys.executable, "-S", "-c", code],
        stdin=subprocess.PIPE,
        stdout=pids.open("wb"),
        start_new_session=True,
    )


def living(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split() if is_running(int(line))]


def test_nothing_is_left_of_a_command_that_goes_on_starting_processes_elsewhere(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    guard = guarded(pids, SPREADS)
    wait_for(lambda: len(living(pids)) >= 8, what="processes in other sessions")
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait(timeout=20)
    assert living(pids) == []


def test_what_a_command_left_behind_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    leaves = SPREADS.replace("time.sleep(0.05)\n", "time.sleep(0.5)\n    sys.exit(3)\n")
    guard = guarded(pids, leaves)
    assert guard.wait(timeout=20) == 3
    assert len(pids.read_text().split()) == 2
    assert living(pids) == []


def test_a_signal_to_the_group_is_the_command_s_and_the_guard_tells_how_it_ended(tmp_path: Path) -> None:
    guard = guarded(tmp_path / "pids", "import time; print(1, flush=True); time.sleep(600)")
    wait_for(lambda: (tmp_path / "pids").read_text(), what="the command runs")
    os.killpg(guard.pid, 15)
    assert guard.wait(timeout=20) == 128 + 15


STOPS = """
import asyncio, os, signal, sys
import psutil
from daemon.worker.child.process import Child

psutil.Process.kill = lambda self: os.kill(os.getpid(), signal.SIGKILL)

async def main():
    child = Child(on_line=lambda line: print(line, flush=True))
    await child.start([sys.executable, "-S", "-c", sys.argv[1]], dict(os.environ))
    while len(child.lines) < 2:
        await asyncio.sleep(0.01)
    await child.stop(signal.SIGTERM, 0.0)

asyncio.run(main())
"""


def test_nothing_is_left_when_the_starter_is_killed_while_it_stops_the_command(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    leaves = SPREADS.replace("time.sleep(0.05)\n", "time.sleep(600)\n")
    with pids.open("wb") as output:
        starter = subprocess.Popen([sys.executable, "-c", STOPS, leaves], stdout=output, stderr=subprocess.DEVNULL)
    starter.wait(timeout=30)
    assert len(pids.read_text().split()) == 2
    assert living(pids) == []
