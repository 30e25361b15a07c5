"""One question, one answer: stdout holds the answer and nothing else, the exit code says how it went."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fcd.fake_daemon import BOUND_S, Cut, FakeDaemon, Pause, Refuse, fake_daemon
from tests.fcd.terminal import ROOT, environment, fcd


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as fake:
        yield fake


@pytest.fixture
def env(daemon: FakeDaemon, tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, FCD_URL=daemon.url)


def test_the_answer_alone_is_on_stdout(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["One ", "answer", "."]]
    done = fcd("chat", "What", "is", "it?", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "One answer.\n", "")
    assert daemon.chats()[0]["messages"] == [{"role": "user", "content": "What is it?"}]


@pytest.mark.parametrize(
    ("words", "piped", "asked"),
    [
        (("chat", "Summarise:"), "a text\n", "Summarise: a text"),
        (("chat", "Summarise:"), "two\nlines\n", "Summarise:\n\ntwo\nlines"),
        (("chat",), "only the pipe\n", "only the pipe"),
        (("run", "guide", "Say it:"), "x", "Say it: x"),
        (("chat", "alone"), "\n", "alone"),
    ],
)
def test_the_pipe_is_joined(
    daemon: FakeDaemon, env: dict[str, str], words: tuple[str, ...], piped: str, asked: str
) -> None:
    assert fcd(*words, env=env, text=piped).returncode == 0
    assert daemon.chats()[0]["messages"][0]["content"] == asked


def test_flags_become_fields_and_options(daemon: FakeDaemon, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    words = (
        "--model-path", str(tmp_path / "model"), "--load-8bit", "--device", "cpu", "--num-gpus", "2",
        "--max-gpu-memory", "8GiB", "--conv-template", "vicuna_v1.1", "--repetition_penalty", "1.1",
        "--max-new-tokens", "9", "--top_k=5",
        "--min-p", "0.1", "--seed", "3", "--system", "Be brief.", "--keep-alive", "5m",
    )  # fmt: skip
    assert fcd("chat", *words, "hi", env=env).returncode == 0
    assert daemon.loads()[0] == {
        "model": str(tmp_path / "model"),
        "options": {
            "device": "cpu",
            "quantization": "8bit",
            "num_gpus": 2,
            "max_gpu_memory": "8GiB",
            "conv_template": "vicuna_v1.1",
            "keep_alive": "5m",
        },
    }
    body = daemon.chats()[0]
    wanted = {"repetition_penalty": 1.1, "max_tokens": 9, "top_k": 5, "min_p": 0.1, "seed": 3}
    assert {name: body.get(name) for name in wanted} == wanted
    assert "temperature" not in body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_settings_are_the_defaults(daemon: FakeDaemon, env: dict[str, str]) -> None:
    assert fcd("chat", "hi", env={**env, "FCD_CHAT_TEMPERATURE": "0.3", "FCD_CHAT_MODEL": "other"}).returncode == 0
    assert daemon.chats()[0]["temperature"] == 0.3
    assert daemon.chats()[0]["model"] == "other"


@pytest.mark.parametrize(
    ("words", "piped", "code", "said"),
    [
        (("chat", "-m", "nosuch", "hi"), None, 4, "does not exist here"),
        (("chat",), None, 2, "nothing to ask"),
        (("chat", "--gpus", "a", "hi"), None, 2, "--gpus"),
        (("chat", "--keep-alive", "soon", "hi"), None, 2, "--keep-alive"),
        (("chat", "--max-new-tokens", "0", "hi"), None, 2, "above 0"),
        (("chat", "--max-gpu-memory", "lots", "hi"), None, 2, "--max-gpu-memory: 'lots' is not an amount"),
        (("chat", "--conv-template", "vicuna", "hi"), None, 2, "Did you mean 'vicuna_v1.1'?"),
        (("chat", "--continue", "hi"), None, 2, "no conversation"),
        (("chat", "--tempreture", "1", "hi"), None, 2, "Did you mean '--temperature'?"),
    ],
)
def test_exit_codes(env: dict[str, str], words: tuple[str, ...], piped: str | None, code: int, said: str) -> None:
    done = fcd(*words, env=env, text=piped)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_text_is_refused(env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fcd", "chat"], input=b"\xff\xfe", capture_output=True, env=env, cwd=ROOT
    )
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr


def test_an_answer_that_breaks_off_is_a_failure_that_keeps_the_text(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.answers = [["Half ", Cut()]]
    done = fcd("chat", "hi", env=env)
    assert done.stdout == "Half \n"
    assert done.returncode == 3
    daemon.answers = [["Half ", Refuse(500, "The worker died.", "worker_died")]]
    done = fcd("chat", "hi", env=env)
    assert (done.returncode, done.stdout) == (1, "Half \n")
    assert "The worker died." in done.stderr
    daemon.answers = [[Refuse(400, "Too long.", "context_length_exceeded")]]
    done = fcd("chat", "hi", env=env)
    assert done.returncode == 1
    assert done.stderr == "fcd: Too long.\nAsk with less text, or use a model with a longer context (`fcd ls`).\n"


def test_a_cut_answer_is_said_to_be_one(daemon: FakeDaemon, env: dict[str, str]) -> None:
    daemon.finish_reason = "length"
    done = fcd("chat", "hi", env=env)
    assert done.returncode == 0
    assert "--max-new-tokens" in done.stderr


def test_ctrl_c_is_130_and_the_daemon_is_told(daemon: FakeDaemon, env: dict[str, str]) -> None:
    pause = Pause()
    daemon.answers = [["Begun ", pause]]
    process = subprocess.Popen(
        [sys.executable, "-m", "fcd", "chat", "hi"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.read(6) == "Begun "
        assert pause.reached.wait(BOUND_S)
        os.kill(process.pid, signal.SIGINT)
        rest, said = process.communicate(timeout=BOUND_S)
    finally:
        process.kill()
    assert (process.returncode, rest) == (130, "\n")
    assert "Traceback" not in said
    assert daemon.dropped.wait(BOUND_S)


def test_a_load_that_fails_says_why(daemon: FakeDaemon, env: dict[str, str]) -> None:
    progress = {"stage": "weights", "done": 1, "total": 2}
    daemon.load_events = [
        {"type": "progress", "progress": progress},
        {"type": "error", "error": "model.safetensors was cut short."},
    ]
    done = fcd("chat", "hi", env=env)
    assert done.returncode == 1
    assert "guide could not be loaded: model.safetensors was cut short." in done.stderr


def test_nobody_at_the_address(tmp_path: Path) -> None:
    done = fcd("chat", "hi", env=environment(tmp_path, FCD_URL="http://127.0.0.1:9"))
    assert done.returncode == 3
    assert "does not answer at http://127.0.0.1:9" in done.stderr


def test_the_module_spelling(daemon: FakeDaemon, env: dict[str, str]) -> None:
    done = fcd("--model-path", "other", "hi", env=env, module="fcd.cli")
    assert (done.returncode, done.stdout) == (0, "You said: hi\n")
    assert daemon.chats()[0]["model"] == "other"
    assert "fcd 0." in fcd("version", env=env, module="fcd.cli").stdout
