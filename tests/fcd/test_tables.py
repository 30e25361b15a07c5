"""What commands print fits the terminal, and `--json` has all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcd.cli.output import Column, fitted
from fcd.cli.worker_facts import worker_facts
from fcd.wire.admin import Progress, WorkerInfo
from tests.fcd.fake_daemon import FakeDaemon, fake_daemon
from tests.fcd.terminal import environment, fcd, terminal

COLUMNS = (Column("NAME", shorten=True), Column("STATE"), Column("MUCH", drop=1), Column("LITTLE", drop=2))

LONG: dict[str, Any] = {
    "name": "Qwen-Qwen2.5-Coder-32B-Instruct-with-a-long-name@8bit",
    "models": ["Qwen/Qwen2.5-Coder-32B-Instruct-with-a-long-name@8bit", "coder"],
    "state": "ready",
    "device": "cuda",
    "dtype": "bfloat16",
    "quantization": "8bit",
    "pid": 1234567,
    "context_length": 131072,
    "memory_bytes": 34_567_890_123,
    "tokens_per_second": 346.88926945484263,
    "ttft_ms": 13.646093000716064,
    "kv_used": 0.00043140980174068166,
    "started_at": 1795406481.073362,
    "running": 12,
    "waiting": 3,
}


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as fake:
        fake.workers.append(LONG)
        fake.models.append(
            {
                "name": LONG["models"][0],
                "source": "cache",
                "state": "ready",
                "context_length": 131072,
                "size_bytes": 9_000_000_000,
            }
        )
        fake.models.append({"name": "talker", "source": "config", "description": "is " + "/a/long/path" * 12})
        yield fake


@pytest.fixture
def env(daemon: FakeDaemon, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FCD_URL=daemon.url, NO_COLOR="1")


@pytest.mark.parametrize("words", [("ps",), ("ls",), ("worker", "list"), ("worker", "show", LONG["name"])])
def test_it_fits_80_columns_of_a_terminal(words: tuple[str, ...], env: dict[str, str]) -> None:
    with terminal(*words, env=env) as shown:
        assert shown.wait() == 0
        lines = shown.plain.splitlines()
    assert max(map(len, lines)) <= 80, "\n".join(lines)
    assert "Qwen" in shown.plain
    assert "ready" in shown.plain
    assert "346.889" not in shown.plain


@pytest.mark.parametrize("words", [("ps",), ("worker", "list")])
def test_a_pipe_and_json_have_everything(words: tuple[str, ...], env: dict[str, str]) -> None:
    assert LONG["name"] in fcd(*words, env=env).stdout
    rows = json.loads(fcd(*words, "--json", env=env).stdout)
    rows = rows["workers"] if isinstance(rows, dict) else rows
    assert rows[1]["tokens_per_second"] == LONG["tokens_per_second"]
    assert rows[1]["models"] == LONG["models"]


def test_columns_go_by_their_worth_and_long_cells_are_cut_last() -> None:
    row = ("a-rather-long-name", "ready", "much", "little")
    assert fitted(COLUMNS, [row], width=0).splitlines()[0].split() == ["NAME", "STATE", "MUCH", "LITTLE"]
    assert fitted(COLUMNS, [row], width=33).splitlines()[0].split() == ["NAME", "STATE", "MUCH"]
    assert fitted(COLUMNS, [row], width=25).splitlines()[1].split() == ["a-rather-long-name", "ready"]
    assert fitted(COLUMNS, [row], width=20).splitlines()[1].split() == ["a-rather-l...", "ready"]
    assert "LITTLE" not in fitted(COLUMNS, [("a", "b", "c", "")], width=0), "nothing in it"


@given(
    st.lists(st.tuples(*[st.text("ab ", max_size=60)] * 4), min_size=1, max_size=5),
    st.integers(min_value=18, max_value=200),
)
def test_no_line_is_wider(rows: list[tuple[str, str, str, str]], width: int) -> None:
    columns = [column._replace(shorten=True) for column in COLUMNS]
    assert all(len(line) <= width for line in fitted(columns, rows, width=width).splitlines())


def test_what_is_said_of_one_worker_has_units() -> None:
    worker = WorkerInfo(
        "w", ["m"], "loading", progress=Progress("weights", 1, 4), kv_used=0.256, ttft_ms=13.6, memory_bytes=17_310_464,
        prompt_tokens=12345, started_at=1000.0, error="\x1b[31mno",
    )  # fmt: skip
    said = dict(worker_facts(worker, 1060.0))
    assert said["state"] == "loading: weights 25 %"
    assert said["KV cache"] == "25.6 % in use"
    assert said["first token"] == "after 14 ms"
    assert said["memory"] == "17.3 MB"
    assert said["tokens"].startswith("12,345 read")
    assert said["started"].endswith("(60 s ago)")
    assert said["error"] == "[31mno", "nothing in it steers the terminal"
    assert "pid" not in said
