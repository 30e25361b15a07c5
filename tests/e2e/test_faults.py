"""Processes that die, and what people see of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, chat, is_running, running_daemon, wait_for

LONG_ANSWER = {"max_tokens": 1500, "ignore_eos": True, "temperature": 0}

pytestmark = pytest.mark.slow


def test_a_killed_daemon_leaves_no_worker(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as home:
        chat(home.url, "Hello")
        daemon, worker = home.status()["pid"], home.worker_pid()
        os.kill(daemon, signal.SIGKILL)
        wait_for(lambda: not is_running(worker), within=5, what="the worker leaves")
        home.fcd("daemon", "start")
        assert home.status()["pid"] != daemon
        assert chat(home.url, "Hello")["choices"][0]["message"]["content"]


def test_a_worker_killed_mid_stream_ends_the_stream_with_an_error_and_is_replaced(own_daemon: Home) -> None:
    chat(own_daemon.url, "Hello")
    worker = own_daemon.worker_pid()
    body = {"model": "guide", "messages": [{"role": "user", "content": "Count"}], "stream": True, **LONG_ANSWER}
    with httpx.stream("POST", f"{own_daemon.url}/v1/chat/completions", json=body, timeout=60) as answer:
        lines = []
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 12:
                os.kill(worker, signal.SIGKILL)
    assert "event: error" in lines
    assert '"worker_died"' in lines[lines.index("event: error") + 1]
    assert "data: [DONE]" not in lines
    assert chat(own_daemon.url, "Hello")["choices"][0]["message"]["content"]
    assert own_daemon.worker_pid() != worker


def test_a_client_that_leaves_frees_the_worker(own_daemon: Home) -> None:
    chat(own_daemon.url, "Hello")
    body = {"model": "guide", "messages": [{"role": "user", "content": "Count"}], "stream": True, **LONG_ANSWER}
    with httpx.stream("POST", f"{own_daemon.url}/v1/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_lines())
    wait_for(
        lambda: all(worker.get("running", 0) == 0 for worker in own_daemon.workers()), what="nothing runs any more"
    )


def test_the_second_start_says_what_runs(own_daemon: Home) -> None:
    again = own_daemon.fcd("daemon", "start", check=False)
    assert again.returncode == 3
    said = again.stdout + again.stderr
    assert str(own_daemon.status()["pid"]) in said
    assert own_daemon.url in said


def test_a_stale_pidfile_of_a_foreign_process_is_recognised(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as home:
        record = next((tmp_path / "runtime").glob("daemon.json")).read_text()
        daemon = home.status()["pid"]
        home.stop()
        foreign = os.getpid()
        (tmp_path / "runtime" / "daemon.json").write_text(record.replace(str(daemon), str(foreign)))
        assert home.fcd("daemon", "status", check=False).returncode == 3
        home.fcd("daemon", "stop", check=False)
        assert is_running(foreign)
        home.fcd("daemon", "start")
        assert home.status()["pid"] != foreign


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "first") as first:
        second = Home(tmp_path / "second")
        second.environ["FCD_PORT"] = str(first.port)
        done = second.fcd("daemon", "start", check=False)
        assert done.returncode == 1
        assert str(first.port) in done.stderr
        assert "Traceback" not in done.stderr
