"""kill -9 while votes come in: what was acknowledged is there, once, and whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def trials(folder: Path, count: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.daemon.arena.voting", str(folder), str(count)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, object], at_least: int) -> None:
    assert (found["lost"], found["half"], found["twice"], found["file"]) == (0, 0, 0, "ok")
    assert isinstance(found["acknowledged"], int)
    assert isinstance(found["kept"], int)
    assert at_least <= found["acknowledged"] <= found["kept"]


def test_no_acknowledged_vote_is_lost_in_10_kills(tmp_path: Path) -> None:
    check(trials(tmp_path, 10), 10)


@pytest.mark.slow
def test_no_acknowledged_vote_is_lost_in_500_kills(tmp_path: Path) -> None:
    check(trials(tmp_path, 500), 500)
