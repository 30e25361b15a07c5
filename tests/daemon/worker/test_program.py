"""The real worker program with a tiny random model: processes, sockets, signals, the `openai` client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.tiny_models import tiny_model

pytestmark = pytest.mark.slow

START_S = 90.0


class Controller:
    """A controller that records what workers send."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.seen: list[tuple[str, dict[str, Any], str]] = []
        controller = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                controller.seen.append((self.path, body, self.headers.get("authorization", "")))
                answer = b'{"exist": true}' if controller.status == 200 else b'{"error": {"message": "No entry."}}'
                self.send_response(controller.status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [body for seen, body, _ in self.seen if seen == path]


class Running:
    """A worker's process, its events and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def event(self, kind: str, within: float = START_S) -> dict[str, Any]:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            found = next((event for event in self.events if event["event"] == kind), None)
            if found is not None:
                return found
            assert self.process.poll() is None or self._reader.is_alive(), self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"no {kind} event; log:\n{self.log.read_text()}")

    def wait(self, within: float = 15.0) -> int:
        code = self.process.wait(within)
        self._reader.join(5)
        return code


@contextmanager
def worker(folder: Path, *arguments: str, model: str | None = None, watched: bool = True) -> Iterator[Running]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FCD_")}
    environ |= {
        "FCD_HOME": str(folder / "home"),
        "FCD_PARENT_WATCH": "1" if watched else "0",
        "FCD_JOIN_TOKEN": "join-me",
        "FCD_TORCH_THREADS": "1",
        "FCD_WORKER_HEARTBEAT_S": "0.2",
        "FCD_DAEMON_DRAIN_S": "20",
    }
    log = folder / "worker.log"
    command = [sys.executable, "-m", "fcd", "worker", "run", model or str(tiny_model("llama")), *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environ)
    running = Running(process, log)
    try:
        yield running
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture(scope="module")
def controller() -> Controller:
    return Controller()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, controller: Controller) -> Iterator[tuple[Running, str, str]]:
    """A worker, its URL and its socket."""
    folder = tmp_path_factory.mktemp("w")
    socket = str(folder / "w.sock")
    arguments = ("--controller", controller.url, "--socket", socket, "--model-names", "tiny,alias")
    with worker(folder, *arguments, "--dtype", "float32", "--worker-id", "tiny-1") as running:
        yield running, running.event("ready")["address"], socket


@pytest.fixture
def client(served: tuple[Running, str, str]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served[1]}/v1", api_key="none", max_retries=0)


def test_it_registers_and_beats(served: tuple[Running, str, str], controller: Controller) -> None:
    running, address, socket = served
    body = controller.bodies("/register_worker")[0]
    assert body["worker_name"] == address
    assert body["worker_status"]["model_names"] == ["tiny", "alias"]
    said = body["fcd"]
    assert (said["worker_id"], said["pid"], said["socket"]) == ("tiny-1", running.process.pid, socket)
    assert said["context_length"] == 1024
    assert {token for _, _, token in controller.seen} == {"Bearer join-me"}
    deadline = time.monotonic() + 10
    while not controller.bodies("/receive_heart_beat"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert controller.bodies("/receive_heart_beat")[0]["fcd"]["memory_bytes"] > 0
    stages = [event["progress"]["stage"] for event in running.events if event["event"] == "progress"]
    assert "weights" in stages


def test_chat_streaming_and_not_are_the_same(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 12,
        "seed": 5,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert whole.choices[0].finish_reason == "length"


def test_logprobs_are_those_of_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        extra_body={"ignore_eos": True},
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 8
    for entry in logprobs.content:
        assert entry.logprob <= 0
        assert entry.top_logprobs[0].logprob == pytest.approx(entry.logprob)
    raw = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert raw.decode(errors="replace").startswith((answer.choices[0].message.content or "").rstrip("\ufffd")[:4])


def test_the_harness_contract_scores_the_same_with_and_without_the_generated_token(client: openai.OpenAI) -> None:
    """Prompt log-probabilities by token ids, as lm-evaluation-harness asks for them."""
    ids = httpx.post(
        str(client.base_url).replace("/v1/", "/tokenize"), json={"prompt": "The quick brown fox", "model": "tiny"}
    ).json()["tokens"]
    scores = []
    for max_tokens in (1, 0):
        choice = client.completions.create(
            model="tiny", prompt=[ids, ids[:4]], max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1234
        ).choices[0]
        assert choice.logprobs is not None
        assert len(choice.logprobs.token_logprobs or []) == len(ids) + max_tokens
        assert (choice.logprobs.token_logprobs or [0])[0] is None
        scores.append((choice.logprobs.token_logprobs or [])[1 : len(ids)])
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_embeddings_are_normalised(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="tiny", input=["one", "two"])
    assert len(answer.data) == 2
    for entry in answer.data:
        assert sum(value * value for value in entry.embedding) == pytest.approx(1, abs=1e-3)


def test_what_does_not_fit_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="word " * 3000)
    assert caught.value.code == "context_length_exceeded"
    assert "1024" in caught.value.message


def test_the_socket_answers_too(served: tuple[Running, str, str]) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=served[2]), base_url="http://w") as client:
        assert client.get("/health").json()["status"] == "ok"


def test_a_client_that_leaves_frees_its_place(served: tuple[Running, str, str]) -> None:
    url = served[1]
    body = {"model": "tiny", "prompt": "x", "max_tokens": 900, "stream": True, "ignore_eos": True}
    for _ in range(8):
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
            next(answer.iter_raw())
    deadline = time.monotonic() + 5
    while httpx.post(f"{url}/worker_get_status").json()["queue_length"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sigterm_lets_the_running_request_finish(served: tuple[Running, str, str]) -> None:
    running, url, socket = served
    body = {"model": "tiny", "prompt": "x", "max_tokens": 300, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while httpx.get(f"{url}/health").json()["status"] != "draining":
            assert time.monotonic() < deadline
        assert httpx.post(f"{url}/v1/completions", json=body).status_code == 503
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert running.wait() == 0
    assert not Path(socket).exists()


def test_it_leaves_when_its_parent_does(tmp_path: Path) -> None:
    """Also while it is loading: nothing waits for a model that nobody will use."""
    with worker(tmp_path, "--no-register") as running:
        running.event("progress")
        assert running.process.stdin is not None
        running.process.stdin.close()
        running.wait(10)


def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the kernel tells of a parent's death on Linux only")
    code = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'fcd', 'worker', 'run', 'guide', '--no-register'],"
        " stdin=open('/dev/zero'), stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environ = {**os.environ, "FCD_HOME": str(tmp_path), "FCD_PARENT_WATCH": "1"}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environ)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(10)
    deadline = time.monotonic() + 5
    import psutil

    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_refusal_ends_it_with_the_reason(tmp_path: Path) -> None:
    with worker(tmp_path, "--controller", Controller(403).url) as running:
        assert "No entry." in running.event("error")["error"]
        assert running.wait() == 1


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with worker(tmp_path, "--no-register", model=str(broken)) as running:
        assert str(broken) in running.event("error")["error"]
        assert running.wait() == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_loading_ends_it_at_once(tmp_path: Path, number: int, code: int) -> None:
    with worker(tmp_path, "--no-register", watched=False) as running:
        deadline = time.monotonic() + START_S
        while "starting the engine" not in running.log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.process.send_signal(number)
        assert running.wait(5) == code


def test_a_person_sees_progress_and_the_address(tmp_path: Path) -> None:
    with worker(tmp_path, "--no-register", watched=False, model="guide") as running:
        deadline = time.monotonic() + START_S
        while "ready at http://127.0.0.1:" not in running.log.read_text():
            assert time.monotonic() < deadline
            assert running.process.poll() is None, running.log.read_text()
            time.sleep(0.05)
        assert "weights" in running.log.read_text()
        assert running.events == []
        running.process.send_signal(signal.SIGINT)
        assert running.wait() == 0
