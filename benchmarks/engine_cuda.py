"""Proof on a machine with NVIDIA GPUs: what the engine computes there is right, how fast it is, what memory it takes.

    python -m benchmarks.engine_cuda [--part NAME]... [--json FILE] [--size 7b] [--folder DIR]

Parts, each in a process of its own, so that one that fails does not stop the rest:

    llama, qwen3, mistral, gemma2
                greedy answers of a small model in bf16 against model.generate, and seeds alone and among others
    speed       output tokens per second of a random-weight Llama at 1, 32 and 256 at once, with and without CUDA graphs
    8bit, 4bit  the same model with --load-8bit and --load-4bit (bitsandbytes): memory after loading, tokens per second
    limit       --max-gpu-memory 8GiB: the most that the process took
    gpus        --num-gpus 2, where two are there

A table comes last, and the same as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 16},
    "tiny": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8},
}
FAMILIES = ("llama", "qwen3", "mistral", "gemma2")
LIMITS = {"speed": 150, "8bit": 120, "4bit": 120, "limit": 100, "gpus": 100}
"""Seconds for each part; the rest have 60."""
Report = Callable[[str, Any], None]


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def make_folder(folder: Path, size: str, device: str) -> None:
    """Write a random-weight Llama with grouped queries (8 K/V heads) and a tokenizer; nothing if it is there."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.tiny_models import make_tokenizer

    if (folder / "done").exists():
        return
    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(
        "llama", vocab_size=32000, num_key_value_heads=8, max_position_embeddings=8192, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=2, pad_token_id=0, **SIZES[size],
    )  # fmt: skip
    started = time.perf_counter()
    config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size="2GB")
    tokenizer.save_pretrained(folder)
    (folder / "done").touch()
    count = sum(p.numel() for p in model.parameters())
    del model
    torch.cuda.empty_cache()
    say(f"made {size}, {count / 1e9:.2f} B parameters, in {time.perf_counter() - started:.0f} s")


async def load(folder: Path, **options: Any) -> Any:
    from daemon.engines.base import LoadOptions
    from daemon.engines.transformers import load_engine

    seen: list[str] = []

    def progress(stage: str, done: float, total: float) -> None:
        if not seen or seen[-1] != stage:
            seen.append(stage)
            say(f"  loading: {stage}")

    return await load_engine(LoadOptions(path=str(folder), **options), progress)


async def answer(engine: Any, ids: list[int], tokens: int, **params: Any) -> list[int]:
    from daemon.engines.base import GenerationRequest, SamplingParams

    chosen = SamplingParams(**{"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, **params})
    out: list[int] = []
    async for delta in engine.generate(GenerationRequest("r", ids, chosen)):
        out += delta.token_ids
    return out


def reference_model(folder: Path, dtype: Any) -> Any:
    """The model's own code with its own attention.

    Left to choose, transformers 5.17 takes SDPA also for Gemma 2, without the cap of its scores: another model.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def part_family(family: str, report: Report, folder: Path, size: str) -> None:
    from tests.tiny_models import make_model

    shape: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.06}
    if family == "gemma2":
        shape["query_pre_attn_scalar"] = 64
    made = Path(tempfile.mkdtemp())
    make_model(family, made, dtype="bfloat16", **shape)
    asyncio.run(check_family(report, made))


async def check_family(report: Report, folder: Path) -> None:
    """Greedy answers beside each other against generate, and against the logits of the model's own code.

    In bf16 two tokens can be all but equal, and batches round differently: so besides equal answers, what counts is how
    far each chosen token was behind the best one of the same model in fp32, in standard deviations of the row's logits,
    beside the same of generate's own answers in bf16.
    """
    import torch

    rng = random.Random(5)
    prompts = [[rng.randrange(3, 500) for _ in range(n)] for n in (1, 4, 17, 64, 130, 300, 700)]
    model = reference_model(folder, torch.bfloat16).cuda()
    engine = await load(folder)
    core = engine._core
    broken = watch_numbers(core._runner)
    report("graphs", core._ahead is not None)
    report("store", type(core._runner.store).__name__)
    answers = await asyncio.gather(*(answer(engine, prompt, 60) for prompt in prompts))
    exact = reference_model(folder, torch.float32).cuda()

    @torch.inference_mode()
    def behind(prompt: list[int], chosen: list[int]) -> float:
        logits = exact(torch.tensor([prompt + chosen[:-1]], device="cuda")).logits[0, len(prompt) - 1 :]
        taken = logits.gather(1, torch.tensor(chosen, device="cuda")[:, None])[:, 0]
        return float(((logits.amax(-1) - taken) / logits.std(-1)).max())

    equal, worst, usual = 0, 0.0, 0.0
    for prompt, got in zip(prompts, answers, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        wanted = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        equal += got == wanted
        worst, usual = max(worst, behind(prompt, got)), max(usual, behind(prompt, wanted))
    report("equal to generate", f"{equal}/{len(prompts)}")
    report("worst choice", round(worst, 4))
    report("generate's worst", round(usual, 4))
    report("right" if worst < max(0.05, 2 * usual) else "FAILED", "no choice is worse than bf16's rounding makes it")
    styles: tuple[dict[str, Any], ...] = ({}, {"top_k": 20}, {"top_p": 0.9}, {})
    seeded = [{"temperature": 0.8, "seed": i, **style} for i, style in enumerate(styles)]
    alone = [await answer(engine, prompts[3], 40, **style) for style in seeded]
    together = await asyncio.gather(
        *(answer(engine, prompts[3], 40, **style) for style in seeded),
        *(answer(engine, prompt, 50) for prompt in prompts),
    )
    report("rows of logits that are no numbers", broken[0])
    report("seeds equal alone and among others", f"{sum(a == b for a, b in zip(alone, together, strict=False))}/4")
    await engine.close()


def watch_numbers(runner: Any) -> list[int]:
    """Count the rows of logits, from now on, that hold anything infinite or no number."""
    import torch

    broken = [0]
    forward, ahead = runner.forward, runner.decode_ahead

    def count(logits: Any) -> None:
        if logits is not None:
            broken[0] += int((~torch.isfinite(logits)).any(-1).sum())

    def counted_forward(plan: Any) -> Any:
        logits, owners = forward(plan)
        count(logits)
        return logits, owners

    def counted_ahead(*args: Any) -> Any:
        logits = ahead(*args)
        count(logits)
        return logits

    runner.forward, runner.decode_ahead = counted_forward, counted_ahead
    return broken


def part_speed(report: Report, folder: Path, size: str) -> None:
    make_folder(folder, size, "cuda")
    asyncio.run(speeds(report, folder))


async def speeds(report: Report, folder: Path) -> None:
    from benchmarks.engine_batching import timed

    started = time.perf_counter()
    engine = await load(folder)
    report("seconds to load", round(time.perf_counter() - started, 1))
    core = engine._core
    graphs = core._runner.graphs
    report("graphs", None if graphs is None else {"captured": len(graphs._graphs), "MiB": graphs.bytes >> 20})
    rng = random.Random(0)

    async def measure(at_once: int, count: int, inside: int, out: int) -> dict[str, Any]:
        prompts = [[rng.randrange(3, 500) for _ in range(inside)] for _ in range(count)]
        started = time.perf_counter()
        speed, first = await timed(engine, prompts, out, at_once)
        took = time.perf_counter() - started
        say(f"  {at_once} at once, {inside} in, {out} out: {speed:.0f} tokens/s ({took:.1f} s)")
        return {"tokens/s": round(speed, 1), "first token ms": round(first)}

    await measure(32, 32, 64, 16)
    report("1 at once", await measure(1, 3, 128, 128))
    report("32 at once", await measure(32, 64, 256, 256))
    report("256 at once", await measure(256, 512, 256, 256))
    report("1 at once, 4,000 in", await measure(1, 2, 4000, 64))
    report("32 at once, again", await measure(32, 64, 256, 256))
    if graphs is not None:
        report("one replay, ms", await asyncio.to_thread(replay_times, core._runner))
        await measure(256, 256, 16, 8)
        ahead, core._ahead = core._ahead, None
        report("32 at once, none ahead", await measure(32, 32, 256, 256))
        core._runner.graphs = None
        report("32 at once, no graphs", await measure(32, 32, 256, 128))
        report("1 at once, no graphs", await measure(1, 1, 128, 64))
        core._runner.graphs, core._ahead = graphs, ahead
    report("stats", {"memory GiB": round(engine.stats().memory_bytes / 2**30, 2)})
    await engine.close()


def replay_times(runner: Any) -> dict[str, float]:
    """Milliseconds for one decode step on the device alone, each row over 512 tokens of the store."""
    import torch

    times: dict[str, float] = {}
    with torch.inference_mode():
        for rows in (1, 32, 256):
            graph = runner.graphs._graphs.get(rows) or runner.graphs._make(rows)
            if graph is None:
                continue
            graph.inputs.zero_()
            graph.inputs[3 * rows : 4 * rows] = torch.arange(rows) * 512 % (runner.store.keys[0].shape[0] - 512)
            graph.inputs[4 * rows + 1 :] = 512
            torch.cuda.synchronize()
            taken = []
            for _ in range(20):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                graph.captured.replay()
                end.record()
                end.synchronize()
                taken.append(start.elapsed_time(end))
            times[str(rows)] = round(statistics.median(taken), 2)
    say(f"  replay: {times}")
    return times


def part_bits(quantization: str, report: Report, folder: Path, size: str) -> None:
    make_folder(folder, size, "cuda")
    asyncio.run(quantised(report, folder, quantization))


async def quantised(report: Report, folder: Path, quantization: str) -> None:
    import torch

    from benchmarks.engine_batching import timed

    plain = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    engine = await load(folder, quantization=quantization, kv_bytes=4 << 30)
    report("seconds to load", round(time.perf_counter() - started, 1))
    weights = engine.info.memory_bytes
    report("weights GiB", round(weights / 2**30, 2))
    report("of bf16", f"{weights / plain:.0%}")
    report("most GiB while loading, with the first KV", round(torch.cuda.max_memory_allocated() / 2**30, 2))
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 500) for _ in range(64)] for _ in range(32)]
    await timed(engine, prompts[:2], 4, 2)
    report("graphs", engine._core._ahead is not None)
    report("tokens/s at 1", round((await timed(engine, prompts[:1], 32, 1))[0], 1))
    report("tokens/s at 32", round((await timed(engine, prompts, 32, 32))[0], 1))
    await engine.close()


def part_limit(report: Report, folder: Path, size: str) -> None:
    make_folder(folder, size, "cuda")
    asyncio.run(limited(report, folder))


async def limited(report: Report, folder: Path) -> None:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    engine = await load(folder, max_gpu_memory="8GiB")
    rng = random.Random(0)
    started = time.perf_counter()
    out = await answer(engine, [rng.randrange(3, 500) for _ in range(64)], 4)
    report("tokens", len(out))
    report("seconds for 4 tokens", round(time.perf_counter() - started, 1))
    report("most reserved GiB", round(torch.cuda.max_memory_reserved() / 2**30, 2))
    report("process on the GPU", process_memory())
    await engine.close()


def process_memory() -> str:
    """What the driver says that this process holds."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    own = [line for line in lines if line.split(",")[0].strip() == str(os.getpid())]
    return own[0].split(",")[1].strip() if own else "not told"


def part_gpus(report: Report, folder: Path, size: str) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        report("skipped", f"{torch.cuda.device_count()} GPU here")
        return
    make_folder(folder, size, "cuda")
    asyncio.run(spread(report, folder))


async def spread(report: Report, folder: Path) -> None:
    import torch

    from benchmarks.engine_batching import timed

    one = await load(folder, kv_bytes=4 << 30)
    rng = random.Random(0)
    prompts = [[rng.randrange(3, 500) for _ in range(64)] for _ in range(32)]
    wanted = [await answer(one, prompt, 16) for prompt in prompts[:4]]
    await one.close()
    del one
    torch.cuda.empty_cache()
    two = await load(folder, num_gpus=2, kv_bytes=4 << 30)
    report("GiB on each", [round(torch.cuda.memory_allocated(i) / 2**30, 2) for i in range(2)])
    got = [await answer(two, prompt, 16) for prompt in prompts[:4]]
    report("equal to one GPU", f"{sum(a == b for a, b in zip(wanted, got, strict=True))}/4")
    report("tokens/s at 32", round((await timed(two, prompts, 64, 32))[0], 1))
    await two.close()


PARTS: dict[str, Callable[[Report, Path, str], None]] = {
    **{family: partial(part_family, family) for family in FAMILIES},
    "speed": part_speed,
    "8bit": partial(part_bits, "8bit"),
    "4bit": partial(part_bits, "4bit"),
    "limit": part_limit,
    "gpus": part_gpus,
}


def run_here(name: str, folder: Path, size: str, target: Path) -> int:
    """One part in this process; what it finds is written as it is found."""
    logging.basicConfig(level=logging.WARNING, format="  log: %(message)s")
    found: dict[str, Any] = {}

    def report(key: str, value: Any) -> None:
        found[key] = value
        say(f"  {key}: {value}")
        target.write_text(json.dumps(found))

    try:
        PARTS[name](report, folder, size)
    except Exception:
        traceback.print_exc()
        report("FAILED", traceback.format_exc(limit=1).strip().splitlines()[-1])
        return 1
    return 0


def run_apart(name: str, folder: Path, size: str) -> dict[str, Any]:
    """One part in a process of its own, within its time."""
    target = Path(tempfile.mkdtemp()) / "found.json"
    command = [sys.executable, "-m", "benchmarks.engine_cuda", "--here", str(target), "--part", name]
    limit = LIMITS.get(name, 60)
    say(f"part {name}")
    try:
        code = subprocess.run([*command, "--folder", str(folder), "--size", size], timeout=limit, check=False)
        ended = "" if code.returncode == 0 else f"exit status {code.returncode}"
    except subprocess.TimeoutExpired:
        ended = f"stopped after {limit} s"
    found: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    if ended:
        found.setdefault("FAILED", ended)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--size", choices=list(SIZES), default="7b")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fcd-gpu-model")
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here is not None:
        sys.exit(run_here(args.part[0], args.folder, args.size, args.here))
    results = {name: run_apart(name, args.folder, args.size) for name in args.part or list(PARTS)}
    for name, found in results.items():
        print(f"\n{name}")
        for key, value in found.items():
            print(f"  {key:28} {value}")
    print("\n" + json.dumps(results), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if "FAILED" in json.dumps(results) else 0)


if __name__ == "__main__":
    main()
