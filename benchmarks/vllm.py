"""Measure vLLM behind fcd on a machine with NVIDIA GPUs, with random weights and nothing downloaded.

    python3 -m benchmarks.vllm --parts abcd --size 7b        # one GPU
    python3 -m benchmarks.vllm --parts ef --size 7b          # two GPUs

    a  the same vLLM straight and through the daemon, in turns (A/B/A/B): tokens/s, first token, gaps between tokens
    b  the transformers worker on the same model through the daemon, beside vLLM
    c  putting vLLM to sleep, waking it, and starting it cold
    d  kill -9 of the engine, the server, the worker and the daemon under load: GPU memory left, next request served
    e  two GPUs: our engine on one and on both, two models placed by themselves, a third that evicts
    f  vLLM on one GPU, with --num-gpus 2 where there are two, and with --max-gpu-memory 8GiB
    g  as a, by vLLM's own load generator, `vllm bench serve`

Each part has a time limit; what fails is said and passed over. Where there is no GPU, --stand-in FILE runs the whole
against a program that only looks like vLLM: it shows that the measurement works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from benchmarks.on_gpu.home import ROOT, Home, gpu_used, wait_until
from benchmarks.on_gpu.load import Result, Way, run

LOADS = ((1, 6), (32, 128), (256, 512))
"""How many at once, and how many requests in all."""
LIMITS_S = {"a": 330, "b": 150, "c": 60, "d": 260, "e": 400, "f": 300, "g": 320}
HELD_S = 10.0
_SHARE = ("--gpu-memory-utilization", "0.85")


class Late(Exception):
    """The part's time is over."""


class Run:
    """One measurement: what it works with, and what it found."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        engine = f'python = "{args.python}"'
        if args.stand_in:
            engine = f'command = "{sys.executable} {Path(args.stand_in).resolve()}"'
        env = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "STAND_IN_STATE": str(folder)}
        self.home = Home(folder / "home", engine, env)
        self.found: dict[str, Any] = {}
        self.earlier: dict[str, Any] = {}
        """What an earlier run left in the file of --json."""
        self.model = folder / f"bench-{args.size}"
        self.small = folder / "bench-small"
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def vllm_flags(self, *more: str) -> list[str]:
        share = () if "--max-gpu-memory" in more or "--gpu-memory-utilization" in more else _SHARE
        return ["--engine", "vllm", "--max-model-len", "4096", *share, *more]

    def make(self, folder: Path, size: str) -> None:
        """A model, made by a process of its own: this one must hold no GPU memory."""
        if not (folder / "made").exists():
            words = [sys.executable, "-m", "benchmarks.on_gpu.models", str(folder), size]
            subprocess.run(words, check=True, env=self.home.environ, cwd=ROOT, timeout=300)

    def save(self) -> None:
        if self.args.json:
            Path(self.args.json).write_text(json.dumps({**self.earlier, **self.found}, indent=1))

    def forget(self, folder: Path) -> None:
        """Unload what may not be loaded."""
        try:
            self.home.fcd("unload", str(folder))
        except RuntimeError as error:
            self.say(f"  {error}")

    def loads(self) -> tuple[tuple[int, int], ...]:
        return tuple((at_once, max(at_once, int(total * self.args.scale))) for at_once, total in LOADS)

    def ask(self, model: str, limit_s: float = 240.0) -> float:
        """Seconds until one short answer."""
        began = time.monotonic()
        body = {"model": model, "prompt": "a", "max_tokens": 1}
        answer = httpx.post(f"http://127.0.0.1:{self.home.port}/v1/completions", json=body, timeout=limit_s)
        if answer.status_code != 200:
            raise RuntimeError(answer.text[:500])
        return time.monotonic() - began


def measure(way: Way, model: str, at_once: int, requests: int) -> Result:
    result = asyncio.run(run(way, model, at_once=at_once, requests=requests))
    if result.errors:
        print(f"  {len(result.errors)} of {requests} failed, first: {result.errors[0][:300]}", flush=True)
    return result


def shown(result: Result) -> dict[str, float]:
    return {
        "tokens_per_s": round(result.rate, 1),
        "ttft_ms": round(result.ttft_ms, 2),
        "p99_gap_ms": round(result.p99_gap_ms, 2),
        "failed": len(result.errors),
    }


def merged(rounds: list[Result]) -> Result:
    whole = Result()
    for each in rounds:
        whole.seconds += each.seconds
        whole.tokens += each.tokens
        whole.first += each.first
        whole.gaps += each.gaps
        whole.errors += each.errors
    return whole


def load_vllm(job: Run) -> None:
    """The model in vLLM, once for all parts that want it."""
    if "cold_start_s" in job.found:
        return
    job.say(f"loading {job.model.name} into vLLM")
    job.found["cold_start_s"] = round(job.home.load(job.model, *job.vllm_flags(), limit_s=300), 1)
    job.say(f"ready after {job.found['cold_start_s']} s; GPU memory {gpu_used()}")


def part_a(job: Run) -> dict[str, Any]:
    load_vllm(job)
    model = job.model.name
    ways = {"direct": Way(socket=job.home.socket_of(model)), "daemon": Way(port=job.home.port)}
    for way in ways.values():
        measure(way, model, 8, 16)
    rows: dict[str, Any] = {}
    for at_once, requests in job.loads():
        rounds: dict[str, list[Result]] = {"direct": [], "daemon": []}
        for _ in range(job.args.rounds):
            for name, way in ways.items():
                rounds[name].append(measure(way, model, at_once, requests))
                job.say(f"  {at_once:4d} at once, {name}: {shown(rounds[name][-1])}")
        direct, daemon = merged(rounds["direct"]), merged(rounds["daemon"])
        rows[str(at_once)] = {
            "direct": shown(direct),
            "daemon": shown(daemon),
            "rate_ratio": round(daemon.rate / direct.rate, 4) if direct.rate else 0,
            "ttft_more_ms": round(daemon.ttft_ms - direct.ttft_ms, 2),
            "p99_gap_ratio": round(daemon.p99_gap_ms / direct.p99_gap_ms, 3) if direct.p99_gap_ms else 0,
        }
    return rows


def part_g(job: Run) -> dict[str, Any]:
    load_vllm(job)
    model = job.model.name
    words = [job.args.python, str(ROOT / "benchmarks" / "on_gpu" / "vllm_bench.py"), model, str(job.model)]
    words += [job.home.socket_of(model), str(job.home.port), "--rounds", str(job.args.rounds)]
    words += ["--loads", ",".join(f"{at_once}:{2 * requests}" for at_once, requests in job.loads())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=job.home.environ)
    print("\n".join(line for line in done.stdout.splitlines() if line.startswith("vllm bench serve")), flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout)[-1500:])
    rows: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return rows


def part_b(job: Run) -> dict[str, Any]:
    vllm = job.found.get("a") or job.earlier.get("a", {})
    if "cold_start_s" in job.found and "unloaded" not in job.found:
        job.home.fcd("unload", str(job.model))
        job.found["unloaded"] = True
    wait_until(lambda: not job.home.workers(), 30)
    job.say(f"loading {job.model.name} into the transformers worker; GPU memory {gpu_used()}")
    rows: dict[str, Any] = {"load_s": round(job.home.load(job.model, "--engine", "transformers", limit_s=140), 1)}
    way = Way(port=job.home.port)
    measure(way, job.model.name, 4, 4)
    for at_once, requests in job.loads():
        result = measure(way, job.model.name, at_once, max(at_once, requests // 2))
        theirs = vllm.get(str(at_once), {}).get("daemon", {}).get("tokens_per_s", 0)
        rows[str(at_once)] = {**shown(result), "of_vllm": round(result.rate / theirs, 3) if theirs else None}
        job.say(f"  {at_once:4d} at once: {rows[str(at_once)]}")
    job.home.fcd("unload", str(job.model))
    return rows


def part_c(job: Run) -> dict[str, Any]:
    load_vllm(job)
    model = job.model.name
    address = job.home.worker(model)["address"]
    before = gpu_used()
    times: dict[str, Any] = {"cold_start_s": job.found["cold_start_s"], "gpu_gib_awake": before}
    for name, path in (
        ("sleep_s", "/sleep?level=1"),
        ("wake_s", "/wake_up"),
        ("sleep_2_s", "/sleep"),
        ("wake_2_s", "/wake_up"),
    ):
        began = time.monotonic()
        answer = httpx.post(address + path, timeout=120)
        if answer.status_code != 200:
            raise RuntimeError(f"{path}: {answer.text[:300]}")
        times[name] = round(time.monotonic() - began, 2)
        if name == "sleep_s":
            times["gpu_gib_asleep"] = gpu_used()
    times["first_answer_after_wake_s"] = round(job.ask(model), 2)
    return times


def part_d(job: Run) -> dict[str, Any]:
    """With a small model and eager execution, so that four starts take as little time as can be."""
    if "cold_start_s" in job.found and "unloaded" not in job.found:
        job.home.fcd("unload", str(job.model))
        job.found["unloaded"] = True
        wait_until(lambda: not job.home.workers(), 30)
    idle = gpu_used()
    flags = ("--max-model-len", "2048", "--engine", "vllm", "--gpu-memory-utilization", "0.5", "--", "--enforce-eager")
    job.say(f"loading {job.small.name}; GPU memory while nothing is loaded: {idle}")
    job.home.load(job.small, *flags, limit_s=120)
    rows: dict[str, Any] = {"gpu_gib_idle": idle, "gpu_gib_loaded": gpu_used()}
    for victim in ("server", "worker", "daemon", "engine"):
        rows[victim] = kill(job, victim, flags)
        job.say(f"  {victim}: {rows[victim]}")
    return rows


def kill(job: Run, victim: str, flags: tuple[str, ...]) -> dict[str, Any]:
    processes = job.home.processes(job.small.name)
    server = processes["worker"].children(recursive=True)
    family = [processes["worker"], *server]
    target = psutil.Process(job.home.pid()) if victim == "daemon" else processes[victim]
    background = threading.Thread(
        target=lambda: asyncio.run(run(Way(port=job.home.port), job.small.name, at_once=32, requests=32, answer=1500))
    )
    background.start()
    time.sleep(2.0)
    lowest = gpu_used()
    target.send_signal(signal.SIGKILL)
    began = time.monotonic()

    def gone() -> bool:
        nonlocal lowest
        lowest = [min(pair) for pair in zip(lowest, gpu_used(), strict=True)]
        return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)

    tree_s = wait_until(gone, HELD_S)
    if victim == "daemon":
        while time.monotonic() - began < 3.0:
            gone()
            time.sleep(0.3)
        job.home.fcd("daemon", "start")
        job.home.load(job.small, *flags, limit_s=120)
    else:
        # The next one loads at once: what the old one held is seen before that takes its own.
        while time.monotonic() - began < 5.0:
            gone()
            time.sleep(0.3)
    served_s = job.ask(job.small.name, 150) and time.monotonic() - began
    background.join(30)
    return {
        "all_gone_s": round(tree_s, 2),
        "gpu_gib_lowest_after": [round(each, 2) for each in lowest],
        "next_answer_after_s": round(served_s, 1),
    }


def part_e(job: Run) -> dict[str, Any]:
    """What is found is kept row by row: a machine's time may end before the part does."""
    rows: dict[str, Any] = {"gpu_gib_idle": gpu_used()}
    job.found["e"] = rows
    eager = ("--", "--enforce-eager")
    memory(job, rows, "transformers, one GPU", job.model, "--engine", "transformers")
    memory(job, rows, "transformers, --num-gpus 2", job.model, "--engine", "transformers", "--num-gpus", "2")
    try:
        rows["placement"] = placement(job, eager)
    except (RuntimeError, StopIteration, OSError) as error:
        rows["placement"] = {"error": str(error)[-600:]}
    job.save()
    for folder in trio(job):
        job.forget(folder)
    return rows


def part_f(job: Run) -> dict[str, Any]:
    rows: dict[str, Any] = {"gpu_gib_idle": gpu_used()}
    job.found["f"] = rows
    eager = ("--", "--enforce-eager")
    vllm = job.vllm_flags("--gpu-memory-utilization", "0.3")
    capped = job.vllm_flags("--max-gpu-memory", "8GiB")
    memory(job, rows, "vllm, --max-gpu-memory 8GiB", job.small, *capped, *eager)
    memory(job, rows, "vllm, one GPU", job.model, *vllm, *eager)
    if len(gpu_used()) > 1:
        memory(job, rows, "vllm, --num-gpus 2", job.model, *vllm, "--num-gpus", "2", *eager)
    return rows


def memory(job: Run, rows: dict[str, Any], name: str, folder: Path, *flags: str) -> None:
    """Load, look, unload."""
    try:
        seconds = job.home.load(folder, *flags, limit_s=150)
        way = Way(port=job.home.port)
        measure(way, folder.name, 4, 4)
        rows[name] = {
            "load_s": round(seconds, 1),
            "gpu_gib": gpu_used(),
            "tokens_per_s_at_32": round(measure(way, folder.name, 32, 64).rate, 1),
            "notes": job.home.worker(folder.name).get("notes", []),
        }
        log = [line for line in job.home.log_of(folder.name).splitlines() if "Model loading took" in line]
        rows[name]["weights"] = log[-1][-90:] if log else ""
    except (RuntimeError, StopIteration, OSError) as error:
        rows[name] = {"error": str(error)[-600:]}
    job.say(f"  {name}: {rows[name]}")
    job.forget(folder)
    wait_until(lambda: not job.home.workers(), 40)
    job.save()


def trio(job: Run) -> list[Path]:
    return [job.folder / f"bench-small-{number}" for number in (1, 2, 3)]


def placement(job: Run, eager: tuple[str, ...]) -> dict[str, Any]:
    """Two models, each of which wants most of a GPU, find one each; a third makes the longest idle one leave."""
    share = job.vllm_flags("--gpu-memory-utilization", "0.7")
    found: dict[str, Any] = {}
    folders = trio(job)
    for folder in folders:
        job.make(folder, "small" if not job.args.stand_in else "tiny")
    with ThreadPoolExecutor() as both:
        list(both.map(lambda folder: job.home.load(folder, *share, *eager, limit_s=200), folders[:2]))
    for folder in folders[:2]:
        job.ask(folder.name)
    found["two at once"] = placed(job)
    job.say(f"  two: {found['two at once']}")
    job.home.load(folders[2], *share, *eager, limit_s=150)
    job.ask(folders[2].name)
    found["and a third"] = placed(job)
    job.say(f"  three: {found['and a third']}")
    return found


def placed(job: Run) -> dict[str, Any]:
    where = {
        name: f"{each.get('state')} on {each.get('gpus')}" for each in job.home.workers() for name in each["models"]
    }
    return {"workers": where, "gpu_gib": gpu_used()}


PARTS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "a": part_a,
    "b": part_b,
    "c": part_c,
    "d": part_d,
    "e": part_e,
    "f": part_f,
    "g": part_g,
}


def limited(job: Run, letter: str) -> dict[str, Any]:
    """One part within its time."""

    def late(*_: Any) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(int(LIMITS_S[letter] * job.args.patience))
    try:
        return PARTS[letter](job)
    except Late:
        return {"error": f"not within {LIMITS_S[letter] * job.args.patience:g} s"}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error)[-1500:]}"}
    finally:
        signal.alarm(0)


def table(found: dict[str, Any]) -> None:
    rows = found.get("a", {})
    if any(name.isdigit() for name in rows):
        print("\nat once | direct tok/s | daemon tok/s |  ratio | TTFT more ms | p99 gap ratio | transformers tok/s")
        for name, row in rows.items():
            if name.isdigit():
                ours = found.get("b", {}).get(name, {}).get("tokens_per_s", "-")
                print(
                    f"{name:>7} | {row['direct']['tokens_per_s']:12} | {row['daemon']['tokens_per_s']:12} | "
                    f"{row['rate_ratio']:6} | {row['ttft_more_ms']:12} | {row['p99_gap_ratio']:13} | {ours:>18}"
                )
    for letter in "cdefg":
        for name, value in found.get(letter, {}).items():
            print(f"{letter}  {name}: {value}")
    for letter, part in found.items():
        if isinstance(part, dict) and "error" in part:
            print(f"{letter}  FAILED: {part['error']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="acbd", help="letters, in the order to run them (default: acbd)")
    parser.add_argument(
        "--size", default="7b", choices=("tiny", "small", "7b"), help="of the model of a, b, c, e, f and g"
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has vLLM (default: this one)")
    parser.add_argument("--stand-in", default="", metavar="FILE", help="a program to start instead of vLLM")
    parser.add_argument("--folder", default="", help="where models and the daemon's files go (default: a new one)")
    parser.add_argument("--rounds", type=int, default=2, help="of A/B in parts a and g (default: 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of requests")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the time limits")
    parser.add_argument(
        "--json",
        default="",
        metavar="FILE",
        help="add what was found to this file after each part; b compares with its a",
    )
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="fcd-bench-")).resolve()
    job = Run(args, folder)
    if args.json and Path(args.json).exists():
        job.earlier = json.loads(Path(args.json).read_text())
    try:
        job.make(job.model, args.size)
        if set(args.parts) & set("def"):
            job.make(job.small, "tiny" if args.stand_in else "small")
        job.say("the models are there")
        job.home.fcd("daemon", "start")
        for letter in args.parts:
            job.say(f"part {letter}")
            found = limited(job, letter)
            job.found[letter] = {**job.found.get(letter, {}), **found}
            if "error" in found:
                job.say(f"part {letter} failed: {job.found[letter]['error']}")
                for log in sorted((folder / "home" / "state" / "logs" / "workers").glob("*.log"))[-1:]:
                    print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]), flush=True)
            job.save()
    finally:
        job.home.stop()
    table({**job.earlier, **job.found})
    print(json.dumps({**job.earlier, **job.found}))


if __name__ == "__main__":
    main()
