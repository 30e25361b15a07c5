"""`fcd worker run --engine vllm` around a process that stands in for vLLM: real processes and sockets, no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.daemon.worker.watched import WatchedWorker, until_gone
from tests.e2e.harness import wait_for
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="unix sockets")

STAND_IN = Path(__file__).resolve().parents[2] / "vllm_stand_in.py"
SMI = """#!/bin/sh
case "$*" in
*compute_cap*) echo "GPU-stand-in, 9.0" ;;
*) echo "0, Stand-in GPU, 81920, 81000, GPU-stand-in" ;;
esac
"""


class Running(WatchedWorker):
    def __init__(
        self,
        home: Path,
        *words: str,
        gpu: bool = False,
        stall_s: float = 60.0,
        key: str = "",
        controller: str = "",
        **fails: str,
    ) -> None:
        env = {"STAND_IN_PIDS": str(home / "pids"), "STAND_IN_STATE": str(home), **fails}
        config = (
            f'[engines.vllm]\ncommand = "{sys.executable} {STAND_IN}"\nstall_s = {stall_s}\n'
            f"[engines.vllm.env]\n" + "".join(f'{name} = "{value}"\n' for name, value in env.items())
        )
        environ = {"FCD_WORKER_KEY": key}
        if gpu:
            tool = home / "bin" / "nvidia-smi"
            tool.parent.mkdir()
            tool.write_text(SMI)
            tool.chmod(0o755)
            environ["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
        # Words after -- are vLLM's own: fcd's come before.
        model = [str(tiny_model("llama")), "--engine", "vllm", "--model-names", "m"]
        model += ["--controller", controller] if controller else ["--no-register"]
        super().__init__(home, *model, *words, config=config, environ=environ)

    @property
    def url(self) -> str:
        return str(self.event("ready")["address"])

    @property
    def started(self) -> dict[str, int]:
        """The newest process of each kind."""
        return {kind: int(pid) for kind, pid in self.noted()}


def running(home: Path, *words: str, **more: Any) -> AbstractContextManager[Running]:
    return until_gone(Running(home, *words, **more))


def complete(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 3, **fields}, timeout=30
    )


def test_it_starts_in_stages_and_serves(tmp_path: Path) -> None:
    with running(tmp_path, STAND_IN_STEP_S="0.25") as worker:
        url = worker.url
        stages = [each["progress"] for each in worker.events if each["event"] == "progress"]
        names = [each["stage"] for each in stages]
        for stage in ("loading weights", "compiling", "making the KV cache", "capturing CUDA graphs"):
            assert stage in names
        shares = {(each["stage"], each.get("done", 0), each["total"]) for each in stages if each.get("total")}
        assert ("loading weights", 1, 2) in shares
        assert ("capturing CUDA graphs", 20, 51) in shares

        assert complete(url).json()["choices"][0]["text"] == "w0 w1 w2 "
        streamed = complete(url, stream=True).text
        assert streamed.endswith("data: [DONE]\n\n")
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        answer = httpx.post(f"{url}/v1/chat/completions", json=chat).json()
        assert answer["choices"][0]["message"]["content"] == "w0 w1 "

        # What vLLM would pass over is refused, and names that are not its own.
        refused = complete(url, topk=3)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "topk")
        assert complete(url, model="other").status_code == 404
        assert complete(url, model="other", store=True).status_code == 404

        # FastChat's clients.
        assert httpx.post(f"{url}/worker_get_status").json()["model_names"] == ["m"]
        body = {"model": "m", "prompt": "a b", "max_new_tokens": 3, "echo": False}
        content = httpx.post(f"{url}/worker_generate_stream", json=body).content
        frames = [json.loads(part) for part in content.split(b"\0") if part]
        assert [frame["text"] for frame in frames[:3]] == ["w0 ", "w0 w1 ", "w0 w1 w2 "]
        assert frames[-1]["finish_reason"] == "length"
        assert httpx.post(f"{url}/count_token", json={"prompt": "a b c"}).json()["count"] == 3
        assert httpx.post(f"{url}/model_details", json={}).json() == {"context_length": 4096}
        assert "vllm:generation_tokens_total" in httpx.get(f"{url}/metrics").text

        # Its development routes are nobody's business, and without a GPU it cannot sleep.
        for path in ("/server_info", "/reset_prefix_cache", "/collective_rpc"):
            assert httpx.post(f"{url}{path}").status_code == 404
        assert httpx.post(f"{url}/sleep").status_code == 409

        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(timeout=20) == 0
        assert worker.is_gone()


def test_a_refusal_is_the_reason_and_not_what_follows_from_it(tmp_path: Path) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with running(tmp_path, controller=f"http://127.0.0.1:{server.server_port}") as worker:
            assert worker.process.wait(timeout=30) == 1
            events = [json.loads(line) for line in worker.output]
            errors = [each["error"] for each in events if each["event"] == "error"]
        server.shutdown()
    assert len(errors) == 1, errors
    assert "token" in errors[0]


def test_its_socket_is_this_users_alone(tmp_path: Path) -> None:
    with running(tmp_path) as worker:
        url = worker.url
        words = httpx.get(f"{url}/tokenizer_info").json()["argv"]
        socket = Path(words[words.index("--uds") + 1])
        assert socket.stat().st_mode & 0o077 == 0
        assert "--api-key" not in words


@pytest.mark.parametrize(
    ("fails", "words", "said"),
    [
        ("tokenizer", (), ("tokenizer", "--tokenizer")),
        ("architecture", (), ("['OddForCausalLM']", "transformers engine")),
        ("gated", (), ("hub", "HF_TOKEN")),
        ("driver", (), ("driver is too old",)),
        ("library", (), ("libcudart.so.13",)),
        ("no_memory", (), ("out of memory", "--gpu-memory-utilization")),
        ("remote_code", (), ("--trust-remote-code",)),
        ("", ("--", "--no-such-flag"), ("--no-such-flag",)),
    ],
)
def test_a_start_that_cannot_be_mended_says_why(
    tmp_path: Path, fails: str, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    with running(tmp_path, *words, STAND_IN_FAILS=fails) as worker:
        error = worker.event("error")["error"]
        for part in said:
            assert part in error
        assert "Traceback" not in error
        assert worker.process.wait(timeout=20) == 1


@pytest.mark.parametrize(
    ("fails", "flag", "value"),
    [
        ("kv_once", "--max-model-len", "992"),
        ("oom_once", "--gpu-memory-utilization", "0.81"),
        ("busy_gpu_once", "--gpu-memory-utilization", "0.485"),
        ("port_once", "", ""),
    ],
)
def test_what_can_be_mended_is_tried_once_more(tmp_path: Path, fails: str, flag: str, value: str) -> None:
    with running(tmp_path, gpu=fails == "busy_gpu_once", STAND_IN_FAILS=fails) as worker:
        url = worker.url
        words = httpx.get(f"{url}/tokenizer_info").json()["argv"]
        if flag:
            assert words[words.index(flag) + 1] == value
            again = [each for each in worker.events if each.get("progress", {}).get("stage") == "starting vLLM again"]
            assert flag in again[0]["progress"]["detail"]
        assert complete(url).status_code == 200


def test_a_length_that_was_asked_for_is_not_shortened(tmp_path: Path) -> None:
    with running(tmp_path, "--max-model-len", "2000", STAND_IN_FAILS="kv_once") as worker:
        error = worker.event("error")["error"]
        assert "1000 tokens fit" in error
        assert "--max-model-len 1000" in error


@pytest.mark.parametrize("victim", ["engine", "server", "worker", "parent"])
def test_whatever_dies_nothing_is_left(tmp_path: Path, victim: str) -> None:
    with running(tmp_path) as worker:
        assert worker.url
        assert set(worker.started) == {"server", "engine"}
        began = time.monotonic()
        if victim == "worker":
            worker.process.kill()
        elif victim == "parent":
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            worker.process.stdin = None
        else:
            os.kill(worker.started[victim], signal.SIGKILL)
        worker.process.wait(timeout=20)
        wait_for(worker.is_gone, within=5, what=f"{victim} killed: nothing is left")
        assert time.monotonic() - began < 10
        if victim in ("engine", "server"):
            error = worker.event("error")["error"]
            assert ("engine process died" in error) if victim == "engine" else ("signal 9" in error)


def test_one_that_makes_no_tokens_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, stall_s=1.0, STAND_IN_FAILS="hang") as worker:
        url = worker.url
        assert complete(url).status_code == 200
        (tmp_path / "now").touch()
        with pytest.raises((httpx.HTTPError, AssertionError)):
            assert complete(url).status_code == 200
        assert "made no token" in worker.event("error")["error"]
        assert worker.process.wait(timeout=20) == 1


@pytest.mark.slow
def test_one_that_is_silent_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, STAND_IN_FAILS="silent") as worker:
        assert worker.url
        (tmp_path / "now").touch()
        assert "does not answer its health checks" in worker.event("error")["error"]


def test_one_that_is_slow_is_not_given_up(tmp_path: Path) -> None:
    with running(tmp_path, stall_s=0.5, STAND_IN_TOKEN_S="0.3") as worker:
        url = worker.url
        assert complete(url, max_tokens=10).status_code == 200
        assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_it_sleeps_and_wakes(tmp_path: Path) -> None:
    with running(tmp_path, "--max-gpu-memory", "8GiB", gpu=True) as worker:
        url = worker.url
        words = httpx.get(f"{url}/tokenizer_info").json()["argv"]
        assert "--enable-sleep-mode" in words
        assert words[words.index("--gpu-memory-utilization") + 1] == "0.1"
        assert httpx.get(f"{url}/is_sleeping").json() == {"is_sleeping": False}
        assert httpx.post(f"{url}/sleep?level=2").json()["error"]["param"] == "level"
        assert httpx.post(f"{url}/sleep?level=1").json() == {"is_sleeping": True}
        assert httpx.get(f"{url}/is_sleeping").json() == {"is_sleeping": True}
        assert httpx.post(f"{url}/wake_up").json() == {"is_sleeping": False}
        assert complete(url).status_code == 200
        # No web page, and nobody under another name.
        assert httpx.post(f"{url}/sleep", headers={"Origin": "http://evil"}).status_code == 403


def test_adapters_are_models(tmp_path: Path) -> None:
    adapter = tmp_path / "pirate"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    with running(tmp_path, "--lora-modules", f"pirate={adapter}") as worker:
        url = worker.url
        assert [each["id"] for each in httpx.get(f"{url}/v1/models").json()["data"]] == ["m", "pirate"]
        assert complete(url, model="pirate").json()["model"] == "pirate"
        body = {"model": "pirate", "prompt": "x", "max_new_tokens": 1}
        assert httpx.post(f"{url}/worker_generate", json=body).json()["error_code"] == 0


def test_a_daemon_elsewhere_reaches_it_with_its_key_alone(tmp_path: Path) -> None:
    with running(tmp_path, "--host", "0.0.0.0", key="secret", gpu=True) as worker:
        url = worker.url
        for path in ("/v1/completions", "/sleep", "/wake_up", "/worker_generate"):
            refused = httpx.post(f"{url}{path}", json={"model": "m", "prompt": "x"})
            assert (refused.status_code, path) == (401, path)
        headers = {"Authorization": "Bearer secret"}
        # The daemon has chosen this worker, whatever name the client used.
        body = {"model": "an alias", "prompt": "x", "max_tokens": 2, "stream": True}
        streamed = httpx.post(f"{url}/v1/completions", json=body, headers=headers).text
        assert streamed.endswith("data: [DONE]\n\n")
        assert '"model": "m"' in streamed
        assert httpx.post(f"{url}/sleep", headers=headers).status_code == 200
        assert httpx.post(f"{url}/wake_up", headers=headers).status_code == 200


def test_flags_of_vllm_are_refused_for_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fcd", "worker", "run", "guide", "--no-register", "--max-model-len", "9"],
        capture_output=True,
        text=True,
        env={**os.environ, "FCD_HOME": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == 2
    assert "--max-model-len is for vLLM" in done.stderr
