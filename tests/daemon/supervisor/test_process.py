"""One process and what it leaves: its last words, its group, its logs, its socket."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import pytest
import uvloop

from daemon.supervisor.launch import LaunchSpec, Place, model_flags, worker_command, worker_environment, worker_name
from daemon.supervisor.local import LocalWorker, clear_sockets
from daemon.supervisor.logs import KEPT, log_files, open_log, shorten, tail
from daemon.supervisor.process import Process, spawn
from fcd.errors import EXIT_USAGE
from fcd.paths import resolve_paths
from fcd.wire.admin import ModelOptions, WorkerEvent
from tests.daemon.controller.harness import is_running, until

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


class Child:
    def __init__(self) -> None:
        self.events: list[WorkerEvent] = []
        self.codes: list[int] = []
        self.log = io.BytesIO()

    async def start(self, code: str, tmp_path: Path) -> Process:
        with (tmp_path / "stderr").open("ab", buffering=0) as log:
            return await spawn(
                [sys.executable, "-S", "-c", code],
                env=dict(os.environ),
                cwd=tmp_path,
                log=log,
                on_event=self.events.append,
                on_exit=self.codes.append,
            )


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_what_it_says_last_is_heard(tmp_path: Path, loop: object) -> None:
    async def main() -> None:
        child = Child()
        code = """
import os
os.write(1, b'{"event": "progress", "progress": {"stage": "one"}}\\nnoise\\n{"event": "nonsense"}\\n')
os.write(1, b'x' * 300000 + b'\\n')
os.write(1, b'{"event": "error", "error": "because"}')
os._exit(7)
"""
        for _ in range(5):
            await child.start(code, tmp_path)
        await until(lambda: len(child.codes) == 5)
        assert child.codes == [7] * 5
        assert [event.event for event in child.events].count("error") == 5
        assert [event.event for event in child.events].count("progress") == 5

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(main())


@pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])
def test_a_child_that_left_the_group_goes_too(tmp_path: Path, loop: object) -> None:
    async def main() -> None:
        child = Child()
        code = f"""
import subprocess, sys, time
other = subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(600)"], start_new_session=True)
same = subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(600)"])
print('{{"event": "ready", "address": "%d %d"}}' % (other.pid, same.pid), flush=True)
time.sleep(600)
"""
        process = await child.start(code, tmp_path)
        await until(lambda: child.events)
        pids = [process.pid, *map(int, child.events[0].address.split())]
        assert all(is_running(pid) for pid in pids)
        await process.stop(2.0)
        assert child.codes == [-15]
        await until(lambda: not any(is_running(pid) for pid in pids), within=3)

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(main())


def test_its_stdin_ends_with_us(tmp_path: Path) -> None:
    code = f"""
import asyncio, os, sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.daemon.supervisor.test_process import Child
async def main():
    child = Child()
    await child.start("import sys, time; print('{{\\"event\\": \\"ready\\"}}', flush=True); sys.stdin.read()",
                      Path({str(tmp_path)!r}))
    while not child.events:
        await asyncio.sleep(0.01)
    process = await child.start("import sys; sys.stdin.read()", Path({str(tmp_path)!r}))
    Path({str(tmp_path / "pid")!r}).write_text(str(process.pid))
    os._exit(0)
asyncio.run(main())
"""

    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        assert await parent.wait() == 0
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: not is_running(pid), within=5)

    asyncio.run(main())


def test_a_bounded_number_of_logs_is_kept(tmp_path: Path) -> None:
    open_log(tmp_path, "guide-mini")[1].close()
    paths = []
    for number in range(KEPT + 3):
        path, log = open_log(tmp_path, "guide")
        log.write(f"start {number}\n".encode())
        log.close()
        paths.append(path)
    assert log_files(tmp_path, "guide") == paths[-KEPT:]
    assert len(log_files(tmp_path, "guide-mini")) == 1, "a name that begins alike is another's"
    assert paths[-1].stat().st_mode & 0o077 == 0
    assert tail(paths[-1], 5) == [f"start {KEPT + 2}"]
    assert tail(tmp_path / "none", 5) == []


def test_a_log_is_shortened_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.supervisor.logs.MAX_BYTES", 100)
    path, log = open_log(tmp_path, "w")
    log.write(b"x" * 200)
    shorten(path)
    log.write(b"after\n")
    log.close()
    assert path.read_bytes() == b"after\n"


def test_stale_sockets_are_cleared_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "w-123.sock").touch()
    (tmp_path / "daemon.json").touch()
    clear_sockets(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["daemon.json"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("guide", "guide"),
        ("Qwen/Qwen3-0.6B", "Qwen-Qwen3-0.6B"),
        ("guide@8bit", "guide@8bit"),
        ("../..", "model"),
        ("é 猫", "model"),
    ],
)
def test_worker_names_are_safe_everywhere(model: str, name: str) -> None:
    assert worker_name(model) == name


def test_only_what_was_decided_becomes_a_flag() -> None:
    assert model_flags(ModelOptions()) == []
    options = ModelOptions(device="cuda", num_gpus=2, quantization="4bit", max_gpu_memory="8GiB", engine="vllm")
    assert model_flags(options) == [
        "--engine", "vllm", "--device", "cuda", "--num-gpus", "2", "--max-gpu-memory", "8GiB", "--load-4bit",
    ]  # fmt: skip
    command = worker_command(LaunchSpec("a", "/x/a", ("b",)), "a", controller="http://h:1", socket="/s")
    assert command[command.index("--model-names") + 1] == "a,b"


def test_the_environment_keeps_secrets_to_the_worker_they_are_for() -> None:
    environment = worker_environment("secret", {"FCD_API_KEY": "k", "FCD_HOME": "/h", "FCD_JOIN_TOKEN": "old"})
    assert "FCD_API_KEY" not in environment
    assert (environment["FCD_JOIN_TOKEN"], environment["FCD_HOME"]) == ("secret", "/h")


class _NoTokens:
    def issue_worker_token(self, name: str) -> str:
        return "token"

    def withdraw_worker_token(self, token: str) -> None:
        return None


@pytest.mark.parametrize(("code", "fatal"), [(EXIT_USAGE, True), (1, False), (-9, False)])
def test_a_command_line_that_is_refused_is_not_tried_again(code: int, fatal: bool, tmp_path: Path) -> None:
    paths = resolve_paths({"FCD_HOME": str(tmp_path)})
    paths.create()
    exits: list[tuple[str, bool, bool]] = []

    async def spawn_ending(
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: IO[bytes],
        on_event: Callable[[WorkerEvent], None],
        on_exit: Callable[[int], None],
    ) -> Process:
        ending = [sys.executable, "-S", "-c", f"import os; {_end(code)}"]
        return await spawn(ending, env=env, cwd=cwd, log=log, on_event=on_event, on_exit=on_exit)

    async def main() -> None:
        worker = LocalWorker(
            "a", LaunchSpec("a", "/x/a", ("a",)), place=Place(), paths=paths, tokens=_NoTokens(), use_sockets=False,
            on_progress=lambda: None, on_exit=lambda *how: exits.append(how),
        )  # fmt: skip
        await worker.start(spawn_ending, "http://127.0.0.1:1")
        await until(lambda: bool(exits))

    asyncio.run(main())
    assert exits[0][1] is fatal


def _end(code: int) -> str:
    return f"os._exit({code})" if code >= 0 else f"os.kill(os.getpid(), {-code})"
