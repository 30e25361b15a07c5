"""FastChat's own programs against ours, in both directions, with real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.e2e.harness import Home, running_daemon, wait_for
from tests.e2e.peers import Programs, programs, readable_by_older
from tests.tiny_models import make_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="FastChat is run in process groups"),
]

MODEL = "vicuna-tiny"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readable_by_older(make_model("llama", tmp_path_factory.mktemp("models") / MODEL))


@pytest.fixture(scope="module")
def fastchat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with programs(tmp_path_factory.mktemp("logs")) as found:
        yield found


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, fastchat: Programs) -> Iterator[Home]:
    with running_daemon(tmp_path_factory.mktemp("home")) as home:
        yield home


@pytest.fixture(scope="module")
def join_url(daemon: Home) -> str:
    """Where FastChat's programs find our controller: the join token is part of the address."""
    secret = json.loads(daemon.fcd("token", "create", "fastchat", "--json").stdout)["secret"]
    return f"{daemon.url}/join/{secret}"


def answer_in(printed: str) -> str:
    """What test_message prints after the name of the one who answers, which depends on the template."""
    return printed.upper().rpartition("ASSISTANT:")[2].strip()


def chat(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json={"messages": HELLO, **fields}, timeout=60)


def streamed(url: str, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    """The chunks of a stream that ends as it should."""
    body = {"stream": True, **fields} if "prompt" in fields else {"messages": HELLO, "stream": True, **fields}
    with httpx.stream("POST", url + path, json=body, timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        lines = [line for line in answer.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]", lines[-3:]
    return [json.loads(line[5:]) for line in lines[:-1]]


def test_fastchats_model_worker_serves_our_clients(
    daemon: Home, join_url: str, fastchat: Programs, model: Path
) -> None:
    address, process = fastchat.worker(join_url, model, "--device", "cpu")
    wait_for(lambda: any(MODEL in worker["models"] for worker in daemon.workers()), what="it is registered")
    wait_for(lambda: all(worker["state"] == "ready" for worker in daemon.workers()), what="it is ready")

    answer = chat(daemon.url, model=MODEL, max_tokens=8, temperature=0, ignore_eos=False).json()
    assert answer["usage"]["completion_tokens"] <= 8
    whole = answer["choices"][0]["message"]["content"]
    chunks = streamed(daemon.url, model=MODEL, max_tokens=8, temperature=0, stream_options={"include_usage": True})
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == whole
    assert chunks[-1]["usage"] == answer["usage"]
    body = {"model": MODEL, "prompt": "one two", "n": 2, "max_tokens": 4, "temperature": 0, "logprobs": 1}
    answer = httpx.post(f"{daemon.url}/v1/completions", json=body, timeout=60).json()
    first, second = answer["choices"]
    assert first["logprobs"] == second["logprobs"]
    assert len(first["logprobs"]["tokens"]) >= 1
    body = {"model": MODEL, "input": ["one", "two", "three", "four", "five"]}
    vectors = httpx.post(f"{daemon.url}/v1/embeddings", json=body, timeout=60).json()["data"]
    assert [round(sum(value**2 for value in each["embedding"]), 3) for each in vectors] == [1.0] * 5
    refused = chat(daemon.url, model=MODEL, seed=1)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "seed")
    refused = chat(daemon.url, model=MODEL, max_tokens=5000)
    assert refused.json()["error"]["code"] == "context_length_exceeded"

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    gone = chat(daemon.url, model=MODEL, max_tokens=4)
    assert gone.status_code in (502, 503), gone.text
    wait_for(lambda: all(worker["state"] == "lost" for worker in daemon.workers()), what="it is known to be lost")
    assert address in [worker["address"] for worker in daemon.workers()]


def test_fastchats_servers_and_clients_use_our_controller_and_worker(
    daemon: Home, join_url: str, fastchat: Programs
) -> None:
    assert chat(daemon.url, model="guide").status_code == 200
    said = fastchat.run("test_message", "--model-name", "guide", "--controller-address", join_url)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "'guide'" in said.stdout
    assert answer_in(said.stdout)

    url = fastchat.api_server(join_url)
    assert "guide" in [each["id"] for each in httpx.get(f"{url}/v1/models", timeout=30).json()["data"]]
    answer = chat(url, model="guide", max_tokens=8, temperature=0.0).json()
    text = "".join(
        choice["delta"].get("content", "")
        for chunk in streamed(url, model="guide", max_tokens=8, temperature=0.0)
        for choice in chunk["choices"]
    )
    assert text == answer["choices"][0]["message"]["content"]
    assert text
    check = {"prompts": [{"model": "guide", "prompt": "one two", "max_tokens": 4}]}
    checked = httpx.post(f"{url}/api/v1/token_check", json=check, timeout=30).json()["prompts"][0]
    assert checked["fits"]
    assert checked["tokenCount"] > 0


def test_fastchats_register_worker_registers_at_our_controller(
    daemon: Home, join_url: str, fastchat: Programs, model: Path
) -> None:
    controller = fastchat.controller()
    address, _ = fastchat.worker(controller, model, "--device", "cpu", "--model-names", "by-hand")
    done = fastchat.run("register_worker", "--controller-address", join_url, "--worker-name", address)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: chat(daemon.url, model="by-hand", max_tokens=2).status_code == 200, what="it serves")


def test_our_worker_serves_fastchats_programs(tmp_path: Path, fastchat: Programs, model: Path) -> None:
    controller = fastchat.controller()
    home = Home(tmp_path)
    arguments = ("worker", "run", str(model), "--controller", controller, "--model-names", "ours")
    worker = home.popen(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(
            lambda: httpx.post(f"{controller}/list_models").json() == {"models": ["ours"]}, what="it is registered"
        )
        said = fastchat.run("test_message", "--model-name", "ours", "--controller-address", controller)
        assert said.returncode == 0, said.stdout + said.stderr
        assert answer_in(said.stdout)
        url = fastchat.api_server(controller)
        answer = chat(url, model="ours", max_tokens=8, temperature=0.0).json()
        chunks = streamed(url, model="ours", max_tokens=8, temperature=0.0)
        text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
        # FastChat takes U+FFFD out of streamed text, and leaves it in the others.
        assert text == answer["choices"][0]["message"]["content"].replace("\ufffd", "")
        assert answer["usage"]["completion_tokens"] <= 8
        prompt = streamed(url, "/v1/completions", model="ours", prompt="one two", max_tokens=4)
        assert prompt[-1]["choices"][0]["finish_reason"] in ("length", "stop")
        body = {"model": "ours", "input": ["one", "two"]}
        vectors = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()
        assert len(vectors["data"]) == 2
    finally:
        worker.terminate()
        assert worker.wait(timeout=30) == 0
