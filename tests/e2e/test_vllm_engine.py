"""A daemon with models in vLLM, for which a program stands in: relayed to, watched, told apart, and left behind by
nobody."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, is_running, wait_for
from tests.tiny_models import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="unix sockets")]

STAND_IN = Path(__file__).resolve().parents[1] / "vllm_stand_in.py"
FAILING = {
    "no-tokenizer": ("tokenizer", ("tokenizer", "--tokenizer")),
    "odd": ("architecture", ("OddForCausalLM", "transformers engine")),
    "locked": ("gated", ("HF_TOKEN",)),
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    folder = tiny_model("llama")
    models = {"good": "", "long": "kv_once", "crashing": "die_mid_stream", **{n: f for n, (f, _) in FAILING.items()}}
    lines = ["[engines.vllm]", f'command = "{sys.executable} {STAND_IN}"', "[engines.vllm.env]"]
    lines += [f'STAND_IN_PIDS = "{tmp_path / "pids"}"', f'STAND_IN_STATE = "{tmp_path}"', 'STAND_IN_STEP_S = "0.1"']
    for name, fails in models.items():
        lines += [
            f"[models.{name}]",
            f'path = "{folder}"',
            'engine = "vllm"',
            f'env = {{ STAND_IN_FAILS = "{fails}" }}',
        ]
    lines += ["[aliases]", 'nick = "good"']
    config = home.folder / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("\n".join(lines) + "\n")
    home.fcd("daemon", "start")
    try:
        yield home
    finally:
        home.stop()
        wait_for(lambda: not any(is_running(pid) for _, pid in started(tmp_path)), within=10, what="nothing is left")


def started(folder: Path) -> list[tuple[str, int]]:
    file = folder / "pids"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(kind, int(pid)) for kind, pid in (line.split() for line in lines)]


def newest(folder: Path, kind: str) -> int:
    return [pid for each, pid in started(folder) if each == kind][-1]


def ask(home: Home, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, **fields}
    return httpx.post(f"{home.url}/v1/chat/completions", json=body, timeout=90)


def test_models_in_vllm_are_loaded_with_progress_and_relayed(home: Home) -> None:
    token = (home.folder / "runtime" / "admin.token").read_text().strip()
    stages: list[tuple[str, float, float]] = []
    with httpx.stream(
        "POST",
        f"{home.url}/api/models/load",
        json={"model": "good"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
    ) as events:
        for line in events.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                progress = event.get("progress") or {}
                if progress:
                    stages.append((progress["stage"], progress.get("done", 0), progress.get("total", 0)))
    names = [stage for stage, _, _ in stages]
    assert "loading weights" in names
    assert "capturing CUDA graphs" in names
    assert any(0 < done <= total for _, done, total in stages if total)

    answer = ask(home, "good").json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("good", "w0 w1 w2 ")
    # An alias means nothing to vLLM: it is asked under its own name.
    assert ask(home, "nick").json()["model"] == "good"
    streamed = ask(home, "good", stream=True).text
    assert streamed.count("data: ") == 4
    assert streamed.endswith("data: [DONE]\n\n")
    refused = ask(home, "good", tempurature=1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tempurature")
    assert "'temperature'" in refused.json()["error"]["message"]
    for path in ("/sleep", "/wake_up", "/is_sleeping", "/server_info", "/collective_rpc"):
        assert httpx.post(f"{home.url}{path}").status_code == 404

    (worker,) = home.workers()
    assert (worker["engine"], worker["context_length"]) == ("vllm", 4096)
    wait_for(lambda: home.workers()[0].get("generated_tokens", 0) > 0, within=10, what="figures reach the table")

    chat = home.fcd("chat", "-m", "good", "--max-new-tokens", "2", "hello")
    assert "w0 w1" in chat.stdout


def test_failures_are_told_where_people_look(home: Home) -> None:
    for model, (_, said) in FAILING.items():
        answer = ask(home, model)
        assert answer.status_code == 503
        for part in said:
            assert part in answer.json()["error"]["message"]
    shown = home.fcd("worker", "show", "odd").stdout
    assert "OddForCausalLM" in shown

    assert ask(home, "long").status_code == 200
    worker = next(each for each in home.workers() if "long" in each["models"])
    assert "992 tokens" in worker["notes"][0]
    assert "992 tokens" in home.fcd("worker", "show", worker["name"]).stdout
    assert worker["context_length"] == 992


@pytest.mark.parametrize("victim", ["engine", "server", "worker"])
def test_what_dies_is_started_again_and_leaves_nothing(home: Home, tmp_path: Path, victim: str) -> None:
    assert ask(home, "good").status_code == 200
    before = [pid for _, pid in started(tmp_path)]
    os.kill(home.worker_pid("good") if victim == "worker" else newest(tmp_path, victim), signal.SIGKILL)
    wait_for(lambda: not any(map(is_running, before)), within=10, what="the old one is gone")
    wait_for(lambda: ask(home, "good").status_code == 200, within=60, what="the next request is answered")
    assert newest(tmp_path, "server") not in before


def test_a_killed_daemon_leaves_no_vllm(home: Home, tmp_path: Path) -> None:
    assert ask(home, "good").status_code == 200
    os.kill(home.status()["pid"], signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: not any(is_running(pid) for _, pid in started(tmp_path)), within=10, what="nothing is left")
    assert time.monotonic() - began < 8
    home.fcd("daemon", "start")
    assert ask(home, "good").status_code == 200


def test_an_answer_that_breaks_off_says_so(home: Home) -> None:
    streamed = ask(home, "crashing", stream=True, max_tokens=50).text
    assert "w2 " in streamed
    assert "worker_died" in streamed
    assert "[DONE]" not in streamed
    wait_for(lambda: ask(home, "crashing").status_code == 200, within=60, what="the next request is answered")
