"""How each server is started and stopped; every one listens on loopback and serves one model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx2 as httpx

from benchmarks.engine.load import Result

START_LIMIT_S = 300.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(command: Sequence[str], ready: Callable[[], bool], environ: dict[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block ends; its whole process group goes with it."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **(environ or {})},
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_LIMIT_S
            while not ready():
                if child.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(f"{' '.join(command[:4])} did not start:\n{log.read()[-3000:].decode()}")
                time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def answers(url: str, *, method: str = "GET", needs: str = "") -> Callable[[], bool]:
    def check() -> bool:
        try:
            answer = httpx.request(method, url, timeout=5)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and needs in answer.text

    return check


@contextmanager
def fcd(folder: Path, *flags: str) -> Iterator[tuple[str, str]]:
    """The daemon with one model loaded; yields its URL and the model's name."""
    with tempfile.TemporaryDirectory() as home:
        environ = {**os.environ, "FCD_HOME": home, "FCD_PORT": "0", "FCD_DAEMON_KEEP_ALIVE": "-1"}
        command = [sys.executable, "-m", "fcd"]
        subprocess.run([*command, "daemon", "start"], env=environ, check=True, capture_output=True)
        try:
            status = subprocess.run(
                [*command, "daemon", "status", "--json"], env=environ, check=True, capture_output=True
            )
            # A model that is loaded with other numbers has a name of its own.
            load = [*command, "load", str(folder), "--json", *flags]
            loaded = subprocess.run(load, env=environ, check=True, capture_output=True)
            yield json.loads(status.stdout)["url"], json.loads(loaded.stdout)["model"]
        finally:
            subprocess.run([*command, "daemon", "stop"], env=environ, check=False, capture_output=True)


@contextmanager
def fastchat(folder: Path, python: str) -> Iterator[tuple[str, str]]:
    """Controller, model worker and OpenAI server, as FastChat's own documentation starts them."""
    controller, worker, server = free_port(), free_port(), free_port()
    at = f"http://127.0.0.1:{controller}"
    environ = {"LOGDIR": ""}
    with ExitStack() as stack:
        stack.enter_context(
            process(
                [python, "-m", "fastchat.serve.controller", "--host", "127.0.0.1", "--port", str(controller)],
                answers(f"{at}/test_connection"),
                environ,
            )
        )
        stack.enter_context(
            process(
                [
                    *(python, "-m", "fastchat.serve.model_worker", "--host", "127.0.0.1", "--port", str(worker)),
                    *("--worker-address", f"http://127.0.0.1:{worker}", "--controller-address", at),
                    *("--model-path", str(folder), "--device", "cpu", "--limit-worker-concurrency", "64"),
                ],
                answers(f"{at}/list_models", method="POST", needs=folder.name),
                environ,
            )
        )
        stack.enter_context(
            process(
                [
                    *(python, "-m", "fastchat.serve.openai_api_server", "--host", "127.0.0.1", "--port", str(server)),
                    *("--controller-address", at),
                ],
                answers(f"http://127.0.0.1:{server}/v1/models", needs=folder.name),
                environ,
            )
        )
        yield f"http://127.0.0.1:{server}", folder.name


@contextmanager
def transformers_serve(folder: Path, python: str, *, continuous: bool) -> Iterator[tuple[str, str]]:
    port = free_port()
    command = [python, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "bfloat16"]
    with process(
        command + (["--continuous-batching"] if continuous else []), answers(f"http://127.0.0.1:{port}/health")
    ):
        yield f"http://127.0.0.1:{port}", str(folder)


@contextmanager
def llama_server(gguf: Path, binary: str, threads: int, most: int, context: int) -> Iterator[tuple[str, str]]:
    """llama.cpp's own HTTP server with a slot for each of `most` streams; it keeps no prompts between rounds."""
    port = free_port()
    command = [binary, "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port), "-t", str(threads)]
    command += ["-np", str(most), "-c", str(most * context), "--cache-ram", "0", "--no-webui"]
    with process(command, answers(f"http://127.0.0.1:{port}/health")):
        yield f"http://127.0.0.1:{port}", gguf.stem


def llama_batched_bench(
    gguf: Path, binary: str, threads: int, streams: Sequence[int], prompt_tokens: int, tokens: int
) -> dict[int, Result]:
    """llama.cpp's own batched benchmark: the same work without a server around it, which is to its advantage.

    Its rate is over prompt and answer together, as the servers' is; it prints no time to first token, so that of the
    whole batch's prompts stands for it.
    """
    command = [binary, "-m", str(gguf), "-t", str(threads), "-npp", str(prompt_tokens), "-ntg", str(tokens)]
    command += ["-npl", ",".join(map(str, streams)), "-c", str(max(streams) * (prompt_tokens + tokens + 16))]
    command += ["--output-format", "jsonl", "-b", "2048", "-ub", "512"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["pl"]: Result(row["pl"] * row["tg"] / row["t"], row["t_pp"]) for row in rows}
