"""The command engine: real processes that serve, die, fork and are left behind by nobody."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from daemon.worker.command.spec import CommandSpec, command_for, signal_number
from daemon.worker.main import find_reference
from daemon.worker.options import WorkerOptions
from fcd.catalog import resolve
from fcd.errors import ModelLoadError, UsageError
from fcd.settings import ModelSettings, Settings
from tests.daemon.worker.watched import WatchedWorker, until_gone
from tests.e2e.harness import is_running, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups")

FAKE = Path(__file__).with_name("fake_server.py")


class Running(WatchedWorker):
    """A worker around the fake server."""

    def __init__(self, home: Path, *words: str, environ: dict[str, str] | None = None, engine: str = "") -> None:
        command = engine or f"{sys.executable} {FAKE} {{model}} {{port}} {' '.join(words)}"
        stop = "SIGINT" if environ and "STOPPED" in environ else "SIGTERM"
        config = f'[models.mine]\nengine = "command"\ncommand = \'{command}\'\nhealth = "/healthy"\n'
        config += f'stop_signal = "{stop}"\nenv = {{ GREETING = "hello" }}\n'
        given = {"PIDS": str(home / "pids"), **(environ or {})}
        super().__init__(home, "mine", "--no-register", config=config, environ=given)

    @property
    def started(self) -> list[int]:
        return [int(pid) for (pid,) in self.noted()]


def running(home: Path, *words: str, **more: Any) -> AbstractContextManager[Running]:
    return until_gone(Running(home, *words, **more))


def test_the_command_serves_fastchats_clients(tmp_path: Path) -> None:
    with running(tmp_path, "--slow") as worker:
        url = worker.event("ready")["address"]
        assert httpx.post(f"{url}/worker_get_status").json() == {"model_names": ["mine"], "speed": 1, "queue_length": 0}
        body = {"model": "mine", "prompt": "say it", "echo": False, "max_new_tokens": 5}
        frames = [
            json.loads(part)
            for part in httpx.post(f"{url}/worker_generate_stream", json=body).content.split(b"\0")
            if part
        ]
        assert [frame["text"] for frame in frames[:3]] == ["one ", "one two ", "one two three"]
        assert frames[-1]["text"] == frames[-2]["text"]
        assert (frames[-2]["finish_reason"], frames[-1]["finish_reason"]) == (None, "stop")
        assert frames[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        assert httpx.post(f"{url}/worker_generate", json={"prompt": "x"}).json()["text"] == "xone two three"
        assert httpx.post(f"{url}/count_token", json={"prompt": "a b c"}).json() == {"count": 3, "error_code": 0}
        assert httpx.post(f"{url}/model_details", json={}).json() == {"context_length": 512}
        assert httpx.post(f"{url}/worker_get_embeddings", json={"input": ["a", "b"]}).json() == {
            "embedding": [[0.0, 1.0], [1.0, 1.0]],
            "token_num": 3,
        }
        refused = httpx.post(f"{url}/worker_generate", json={"prompt": "x", "logprobs": 1})
        assert (refused.status_code, refused.json()["error_code"]) == (200, 40001)
        conv = httpx.post(f"{url}/worker_get_conv_template", json={}).json()["conv"]
        assert conv["sep_style"] <= 7
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(timeout=20) == 0


def test_a_command_that_fails_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with running(tmp_path, "--fail") as worker:
        error = worker.event("error")["error"]
        assert "exit code 5" in error
        assert "loading mine\nthe model is broken" in error
        assert worker.process.wait(timeout=20) == 1


def test_a_command_that_dies_takes_its_worker_along(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        worker.event("ready")
        (pid,) = worker.started
        os.kill(pid, signal.SIGKILL)
        assert "signal 9" in worker.event("error")["error"]
        assert worker.process.wait(timeout=20) == 1


@pytest.mark.parametrize("how", ["worker killed", "parent gone", "terminated"])
def test_nothing_is_left_behind(tmp_path: Path, how: str) -> None:
    with running(tmp_path, "--fork", "--stubborn" if how != "terminated" else "") as worker:
        worker.event("ready")
        assert len(worker.started) == 2
        if how == "worker killed":
            worker.process.kill()
        elif how == "parent gone":
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            worker.process.stdin = None
        else:
            worker.process.terminate()
        for pid in worker.started:
            wait_for(lambda pid=pid: not is_running(pid), within=15, what=f"{how}: {pid} is gone")  # type: ignore[misc]


def test_it_is_asked_to_end_with_the_signal_of_the_settings(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with running(tmp_path, environ={"STOPPED": str(told)}) as worker:
        worker.event("ready")
        worker.process.terminate()
        assert worker.process.wait(timeout=20) == 0
        assert told.read_text() == "SIGINT"


def test_a_command_of_ones_own_may_serve_anything(tmp_path: Path) -> None:
    file = tmp_path / "m.bin"
    file.touch()
    for model, name, filled in ((str(file), "m", str(file)), ("any thing", "any thing", "any thing")):
        options = WorkerOptions(model=model, command="sh {model} {port}")
        reference = find_reference(options, Settings())
        assert reference.name == name
        spec = command_for(reference, Settings(), options.command, exposed=False)
        assert spec.argv(host="", port=1, name="", key="") == ["sh", filled, "1"]


def test_words_are_filled_in_as_words() -> None:
    spec = CommandSpec("serve --model '{model}' --at {host}:{port} --name={name}", "/a b/c; rm -rf 'x'.gguf")
    argv = spec.argv(host="127.0.0.1", port=5, name="n {port}", key="")
    assert argv == ["serve", "--model", "/a b/c; rm -rf 'x'.gguf", "--at", "127.0.0.1:5", "--name=n {port}"]
    with pytest.raises(UsageError, match="placeholder"):
        CommandSpec("serve {modell} {port}", "x").argv(host="", port=0, name="", key="")
    with pytest.raises(UsageError, match="cannot be read"):
        CommandSpec("serve 'x {port}", "x").argv(host="", port=0, name="", key="")


def test_gguf_files_are_served_by_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF")
    reference = resolve(str(file), Settings())
    assert (reference.name, reference.kind, reference.options.engine) == ("tiny", "command", "command")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match="llama-server"):
        command_for(reference, Settings(), "", exposed=False)
    server = tmp_path / "llama-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    spec = command_for(reference, Settings(), "", exposed=False)
    argv = spec.argv(host="127.0.0.1", port=5, name="tiny", key="")
    assert argv[:7] == ["llama-server", "-m", str(file), "--host", "127.0.0.1", "--port", "5"]
    assert spec.environment("") == {}
    exposed = command_for(reference, Settings(), "", exposed=True)
    assert exposed.argv(host="127.0.0.1", port=5, name="tiny", key="secret") == argv  # others can read it
    assert exposed.environment("secret") == {"LLAMA_API_KEY": "secret"}


def test_the_key_is_filled_in_in_the_environment_where_others_cannot_read_it() -> None:
    env = {"API_KEY": "{key}", "HEADER": "Bearer {key}", "OTHER": "{name} {}", "PLAIN": "1"}
    command = "sh serve.sh {port} {host}"
    settings = Settings(models={"mine": ModelSettings(engine="command", command=command, env=env)})
    spec = command_for(resolve("mine", settings), settings, "", exposed=True)
    assert spec.environment("a{b") == {"API_KEY": "a{b", "HEADER": "Bearer a{b", "OTHER": "{name} {}", "PLAIN": "1"}
    assert spec.environment("") == {"OTHER": "{name} {}", "PLAIN": "1"}
    assert spec.argv(host="127.0.0.1", port=5, name="mine", key="secret") == ["sh", "serve.sh", "5", "127.0.0.1"]
    without = Settings(models={"mine": ModelSettings(engine="command", command=command, env={"API_KEY": "key"})})
    with pytest.raises(UsageError, match=r"not say \{key\}"):
        command_for(resolve("mine", without), without, "", exposed=True)


def test_a_command_that_cannot_serve_is_refused_at_once() -> None:
    def refused(match: str, **fields: Any) -> None:
        settings = Settings(models={"mine": ModelSettings(**{"engine": "command", "command": "sh {port}", **fields})})
        exposed = bool(fields.pop("exposed", False))
        with pytest.raises((UsageError, ModelLoadError), match=match):
            command_for(resolve("mine", settings), settings, "", exposed=exposed)

    refused("port", command="sh serve.sh")
    refused("No command", command="")
    refused("not installed", command="no-such-program {port}")
    refused("not a signal", stop_signal="SIGNONE")
    settings = Settings(models={"mine": ModelSettings(engine="command", command="sh {port}")})
    with pytest.raises(UsageError, match=r"\{host\} and \{key\}"):
        command_for(resolve("mine", settings), settings, "", exposed=True)
    assert signal_number("INT") == signal.SIGINT
