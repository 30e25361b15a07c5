"""Stopping under load: what runs may finish, what does not is cut with an error, and a second signal is obeyed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import httpx2 as httpx
import pytest

from daemon.lifecycle import Stop, drain
from fcd.cli.ensure import not_ready
from tests.daemon.harness import (
    CHAT,
    STREAM_END,
    STREAM_HEAD,
    asks,
    daemon,
    event,
    lines_of,
    run,
    stream,
    until,
    worker,
)
from tests.e2e.harness import Home, is_running, wait_for


def test_what_runs_may_finish() -> None:
    async def main() -> None:
        go = asyncio.Event()
        script = stream(STREAM_HEAD, event({"n": 1}), go.wait(), event("[DONE]"), STREAM_END)
        async with (
            worker(script) as first,
            daemon(first.target, drain_s=20.0) as fcd,
            fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got,
        ):
            draining = asyncio.create_task(drain(fcd.context, Stop()))
            await until(lambda: fcd.context.draining)
            assert (await fcd.http.post(CHAT, json=asks())).status_code == 503
            assert not draining.done()
            go.set()
            assert await lines_of(got) == ['data: {"n": 1}', "data: [DONE]"]
            await asyncio.wait_for(draining, 5)

    run(main())


@pytest.mark.parametrize("hurry", [False, True])
def test_what_does_not_finish_is_cut_at_the_limit_or_at_the_second_signal(hurry: bool) -> None:
    async def main() -> None:
        script = stream(STREAM_HEAD, event({"n": 1}), 60.0)
        async with (
            worker(script) as first,
            daemon(first.target, drain_s=60.0 if hurry else 0.2) as fcd,
            fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got,
        ):
            stop = Stop()
            stop.ask()
            draining = asyncio.create_task(drain(fcd.context, stop))
            await until(lambda: fcd.context.draining)
            if hurry:
                stop.ask()
            lines = await lines_of(got)
            assert lines[1] == "event: error"
            assert "shutting_down" in lines[2]
            assert len(lines) == 3
            await asyncio.wait_for(draining, 5)

    run(main())


@pytest.mark.slow
def test_a_daemon_told_to_stop_lets_an_answer_end_and_leaves_no_worker(tmp_path: Path) -> None:
    home = Home(tmp_path)
    process = home.popen("daemon", "run", stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: not_ready(home.url) is None, within=60)
        body = {"model": "guide", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "max_tokens": 300,
                "ignore_eos": True, "temperature": 0}  # fmt: skip
        with httpx.stream("POST", f"{home.url}{CHAT}", json=body, timeout=120) as got:
            lines = got.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            pid = home.worker_pid()
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: not_ready(home.url) is not None, within=10)
            refused = httpx.post(f"{home.url}{CHAT}", json=body, timeout=10)
            rest = [line for line in lines if line]
        assert refused.status_code == 503
        assert rest[-1] == "data: [DONE]"
        assert process.wait(30) == 0
        wait_for(lambda: not is_running(pid), within=5)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_second_signal_ends_it_now(tmp_path: Path) -> None:
    home = Home(tmp_path)
    process = home.popen("daemon", "run", stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: not_ready(home.url) is None, within=60)
        body = {"model": "guide", "messages": [{"role": "user", "content": "Hello"}], "stream": True,
                "max_tokens": 1900, "ignore_eos": True}  # fmt: skip
        with httpx.stream("POST", f"{home.url}{CHAT}", json=body, timeout=120) as got:
            lines = got.iter_lines()
            next(line for line in lines if line.startswith("data:"))
            pid = home.worker_pid()
            os.kill(process.pid, signal.SIGTERM)
            wait_for(lambda: not_ready(home.url) is not None, within=10)
            began = time.monotonic()
            os.kill(process.pid, signal.SIGTERM)
            rest = [line for line in lines if line]
        assert "event: error" in rest
        assert "data: [DONE]" not in rest
        assert process.wait(10) == 0
        assert time.monotonic() - began < 8
        wait_for(lambda: not is_running(pid), within=5)
    finally:
        process.kill()
        process.wait()
