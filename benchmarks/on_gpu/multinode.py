"""One vLLM over two nodes, where both nodes are this machine with a GPU each, and no Ray is there: what a cluster runs
on its nodes, run here. Random weights, nothing downloaded.

    python3 -m benchmarks.on_gpu.multinode --size 7b

Prints the two command lines, how long the start took, one completion, tokens/s at 1 and 32 at once, then kills the
second node's vLLM with -9 and says after how long everything of both nodes is gone, after how long the whole answers
again, and that nothing is left after the stop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from benchmarks.on_gpu.home import ROOT, Home, gpu_used, wait_until
from benchmarks.on_gpu.load import Result, Way, run
from daemon.cluster.host import WorkerHost
from daemon.cluster.part import PartHost
from daemon.worker.vllm.failures import explain
from fcd import __version__

ADDRESS = "127.0.0.1"
LOADS = ((1, 6), (32, 128))
MODEL = "spread"


class LocalPeer:
    """The way to a part that is in this process: see `daemon.cluster.group.Peer`."""

    name = "local"

    def __init__(self, host: PartHost) -> None:
        self._host = host
        self._place = 0

    def tell(self, method: str, *arguments: Any) -> None:
        getattr(self._host, method)(*arguments)

    def look(self, run: str) -> dict[str, Any] | str | None:
        found = self._host.status(run, self._place)
        self._place = found["place"]
        return found


class Spread:
    """The two nodes, their logs, and what is measured on them."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        engine = f'python = "{args.python}"'
        if args.stand_in:
            engine = f'command = "{sys.executable} {Path(args.stand_in).resolve()}"'
        env = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "STAND_IN_STATE": str(folder)}
        self.home = Home(folder / "home", engine, env)
        self.model = folder / f"bench-{args.size}"
        self.began = time.monotonic()
        self.found: dict[str, Any] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def make(self) -> None:
        if not (self.model / "made").exists():
            words = [sys.executable, "-m", "benchmarks.on_gpu.models", str(self.model), self.args.size]
            subprocess.run(words, check=True, env=self.home.environ, cwd=ROOT, timeout=300)

    def start(self) -> None:
        def node(gpu: int) -> dict[str, str]:
            return {**self.home.environ, "CUDA_VISIBLE_DEVICES": str(gpu)}

        def find() -> tuple[str, str]:
            return ADDRESS, str(self.folder)

        arguments = [str(self.model), "--model-names", MODEL, "--engine", "vllm", "--num-gpus", "2"]
        arguments += ["--max-model-len", "4096", "--gpu-memory-utilization", self.args.share]
        split = ["--tensor-parallel-size", "2"] if self.args.split == "tensor" else []
        passed_on = [*split, *(["--enforce-eager"] if self.args.eager else [])]
        launch = {
            "arguments": [*arguments, *(["--", *passed_on] if passed_on else [])],
            "controller": "",
            "token": "",
            "token_id": "",
            "version": __version__,
            "on_loopback": True,
            "gpus": 1,
            "parts": [LocalPeer.name],
        }
        self.part = PartHost("node-2", find, node(1))
        self.host = WorkerHost(launch, "node-1", find, [LocalPeer(self.part)], node(0))

    def log(self) -> list[str]:
        return self.host.logs(100_000)

    def wait_ready(self, limit_s: float) -> float:
        """Seconds until it serves. Raises RuntimeError: why it does not."""
        shown = ""

        def over() -> bool:
            nonlocal shown
            status = self.host.status()
            progress = status["progress"] or {}
            now = f"{status['state']} {progress.get('stage', '')} {progress.get('detail', '')}".strip()
            if now != shown:
                shown = now
                self.say(f"  {now}")
            return status["state"] in ("ready", "failed")

        seconds = wait_until(over, limit_s)
        status = self.host.status()
        if status["state"] != "ready":
            raise RuntimeError(f"it is {status['state']}: {status['error']} {status['parts']}")
        return seconds

    @property
    def way(self) -> Way:
        """Where vLLM's own server listens."""
        sockets = re.findall(r"on unix:(\S+)", "\n".join(self.log()))
        return Way(socket=sockets[-1])

    def ask(self) -> str:
        """One chat through the worker program."""
        address = re.findall(r"is ready at (http://[\d.:]+)\.", "\n".join(self.log()))[-1]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=120)
        if answer.status_code != 200:
            raise RuntimeError(answer.text[:500])
        return str(answer.json()["choices"][0]["message"]["content"])

    def processes(self) -> list[psutil.Process]:
        """All that runs on both nodes."""
        return psutil.Process().children(recursive=True)

    def server_of(self, program: int) -> psutil.Process:
        """The vLLM below a worker program and its guard."""
        guard = next(each for each in psutil.Process(program).children() if "guard.py" in " ".join(each.cmdline()))
        return guard.children()[0]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def command_lines(job: Spread) -> dict[str, str]:
    status = job.host.status()
    pids = {"node 1": status["pid"], "node 2": status["parts"][0]["pid"]}
    return {name: " ".join(job.server_of(pid).cmdline()) for name, pid in pids.items()}


def measure(job: Spread) -> None:
    way = job.way
    asyncio.run(run(way, MODEL, at_once=4, requests=4))
    for at_once, requests in LOADS:
        result: Result = asyncio.run(run(way, MODEL, at_once=at_once, requests=requests))
        row = {
            "tokens_per_s": round(result.rate, 1),
            "ttft_ms": round(result.ttft_ms, 1),
            "p99_gap_ms": round(result.p99_gap_ms, 1),
            "failed": len(result.errors),
        }
        job.found[f"{at_once} at once"] = row
        job.say(f"{at_once} at once: {row} {result.errors[:1]}")


def kill_follower(job: Spread) -> None:
    """Kill the second node's vLLM, and see that both nodes are rid of the whole before it is started again."""
    family = job.processes()
    job.server_of(job.host.status()["parts"][0]["pid"]).send_signal(signal.SIGKILL)
    began = time.monotonic()
    gone = wait_until(lambda: not alive(family), 60, 0.02)
    job.found["all_gone_s"] = round(gone, 2)
    job.say(f"the second node's vLLM was killed; everything of both was gone after {gone:.2f} s")
    job.say(f"reason: {job.host.status()['error']}")
    job.wait_ready(job.args.limit)
    job.found["served_again_s"] = round(time.monotonic() - began, 1)
    job.say(f"served again after {job.found['served_again_s']} s: {job.ask()!r}")


def end(job: Spread) -> None:
    family = job.processes()
    began = time.monotonic()
    job.host.stop(5.0)
    wait_until(lambda: job.host.status()["state"] == "stopped", 60, 0.05)
    left = alive(family)
    job.found["stopped_s"] = round(time.monotonic() - began, 1)
    job.found["left"] = [" ".join(each.cmdline())[:120] for each in left]
    job.say(f"stopped after {job.found['stopped_s']} s; left over: {job.found['left']}; GPU memory {gpu_used()}")
    for each in left:
        each.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="7b", choices=("tiny", "small", "7b"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has vLLM (default: this one)")
    parser.add_argument("--stand-in", default="", metavar="FILE", help="a program to start instead of vLLM")
    parser.add_argument("--folder", default="", help="where the model and the logs go (default: a new one)")
    parser.add_argument("--split", default="layers", choices=("layers", "tensor"), help="what each node has a part of")
    parser.add_argument("--share", default="0.85", help="of each GPU's memory (default: 0.85)")
    parser.add_argument("--eager", action="store_true", help="without compiling, to start sooner")
    parser.add_argument("--limit", type=float, default=400.0, help="seconds for one start (default: 400)")
    args = parser.parse_args()
    job = Spread(args, Path(args.folder or tempfile.mkdtemp(prefix="fcd-spread-")).resolve())
    job.make()
    job.say(f"the model is there; GPU memory {gpu_used()}")
    job.start()
    try:
        job.found["start_s"] = round(job.wait_ready(args.limit), 1)
        job.say(f"ready after {job.found['start_s']} s; GPU memory {gpu_used()}")
        for name, words in command_lines(job).items():
            job.say(f"{name}: {words}")
        job.say(f"one answer: {job.ask()!r}")
        measure(job)
        kill_follower(job)
    except (RuntimeError, OSError, IndexError, httpx.HTTPError, psutil.Error) as error:
        job.found["error"] = f"{type(error).__name__}: {str(error)[:1500]}"
        print("\n".join(job.log()[-150:]), flush=True)
        job.say(f"FAILED: {job.found['error']}\n  vLLM's words: {explain(job.log()[-400:], 'an error').cause}")
    finally:
        end(job)
    print(json.dumps(job.found))


if __name__ == "__main__":
    main()
