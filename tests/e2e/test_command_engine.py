"""A daemon with models that servers of others serve: started on demand, renamed, and left behind by nobody."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, is_running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="process groups")]

FAKE = Path(__file__).resolve().parent.parent / "daemon" / "worker" / "fake_server.py"
HELLO = [{"role": "user", "content": "Hello"}]


def ask(home: Home, model: str) -> httpx.Response:
    return httpx.post(f"{home.url}/v1/chat/completions", json={"model": model, "messages": HELLO}, timeout=60)


def pids(file: Path) -> list[int]:
    return [int(pid) for pid in file.read_text().split()]


def test_models_of_commands_are_started_served_and_ended(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    started = tmp_path / "pids"
    home.environ["PIDS"] = str(started)
    # What stands for llama.cpp's server takes its flags: -m MODEL --host HOST --port PORT ...
    programs = tmp_path / "bin"
    programs.mkdir()
    server = programs / "llama-server"
    server.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$2" "$6" --fork\n')
    server.chmod(0o755)
    home.environ["PATH"] = f"{programs}{os.pathsep}{home.environ['PATH']}"
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"GGUF")
    config = tmp_path / "home" / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f"[models.mine]\ncommand = '{sys.executable} {FAKE} x {{port}} --fork'\nhealth = '/healthy'\n"
        "env = { GREETING = 'hello' }\n"
        f"[models.broken]\ncommand = '{sys.executable} {FAKE} x {{port}} --fail'\n"
    )
    home.fcd("daemon", "start")
    try:
        answer = ask(home, "mine")
        # The server calls its model `served`: it was asked for that.
        assert (answer.status_code, answer.json()["model"], answer.json()["env"]) == (200, "served", "hello")
        (worker,) = home.workers()
        assert (worker["engine"], worker["context_length"], worker["models"]) == ("command", 512, ["mine"])
        broken = ask(home, "broken")
        assert broken.status_code == 503
        assert "the model is broken" in broken.json()["error"]["message"]

        first = pids(started)
        os.kill(worker["pid"], signal.SIGKILL)
        for pid in first:
            wait_for(lambda pid=pid: not is_running(pid), within=10, what="it ends with its worker")  # type: ignore[misc]
        assert ask(home, "mine").status_code == 200

        home.fcd("load", str(gguf))
        assert ask(home, "tiny").status_code == 200
    finally:
        home.stop()
    for pid in pids(started):
        wait_for(lambda pid=pid: not is_running(pid), within=10, what="it ends with the daemon")  # type: ignore[misc]
