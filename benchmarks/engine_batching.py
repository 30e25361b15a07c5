"""Output tokens per second of the in-process engine: one request after another against 8 and 32 at once, in one run.

    python -m benchmarks.engine_batching MODEL_FOLDER [--prompt 128] [--tokens 64] [--requests 32] [--rounds 3]
        [--quantization 8bit] [--dtype float32] [--generate]

Greedy, prompts of random tokens (no shared prefix). `--generate` also times transformers' own model.generate, one
request after another, in the same run. Ratios are what to read: the machine's speed cancels out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence

from daemon.engines.base import Engine, GenerationRequest, LoadOptions, SamplingParams
from daemon.engines.transformers import load_engine


async def one(engine: Engine, prompt: Sequence[int], tokens: int) -> tuple[int, float]:
    """Tokens generated, and seconds to the first."""
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    start = time.perf_counter()
    first = 0.0
    count = 0
    async for delta in engine.generate(GenerationRequest("bench", prompt, params)):
        first = first or time.perf_counter() - start
        count += len(delta.token_ids)
    return count, first


async def timed(engine: Engine, prompts: list[list[int]], tokens: int, at_once: int) -> tuple[float, float]:
    """Tokens per second with `at_once` requests in flight, and the median time to first token in ms."""
    gate = asyncio.Semaphore(at_once)
    firsts: list[float] = []

    async def guarded(prompt: list[int]) -> int:
        async with gate:
            count, first = await one(engine, prompt, tokens)
            firsts.append(first)
            return count

    start = time.perf_counter()
    total = sum(await asyncio.gather(*(guarded(prompt) for prompt in prompts)))
    return total / (time.perf_counter() - start), statistics.median(firsts) * 1000


def generate_speed(folder: str, prompts: list[list[int]], tokens: int, dtype: str) -> float:
    """transformers' generate, one request after another."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    start = time.perf_counter()
    for prompt in prompts:
        ids = torch.tensor([prompt])
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return len(prompts) * tokens / (time.perf_counter() - start)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quantization", default="")
    parser.add_argument("--dtype", default="")
    parser.add_argument("--generate", action="store_true")
    args = parser.parse_args()
    options = LoadOptions(path=args.folder, quantization=args.quantization, dtype=args.dtype)
    engine = await load_engine(options, lambda *progress: None)
    rng = random.Random(0)
    rows: dict[int, list[tuple[float, float]]] = {1: [], 8: [], 32: []}
    reference: list[float] = []
    for _ in range(args.rounds + 1):
        for at_once, results in rows.items():
            count = max(4, args.requests // 4) if at_once == 1 else args.requests
            prompts = [[rng.randrange(3, engine.info.vocab_size) for _ in range(args.prompt)] for _ in range(count)]
            results.append(await timed(engine, prompts, args.tokens, at_once))
        if args.generate:
            reference.append(generate_speed(args.folder, prompts[:4], args.tokens, engine.info.dtype.split()[0]))
    speeds = {n: statistics.median(r[0] for r in results[1:]) for n, results in rows.items()}
    for n, results in rows.items():
        ttft = statistics.median(r[1] for r in results[1:])
        print(f"{n:3d} at once: {speeds[n]:8.1f} tokens/s  {speeds[n] / speeds[1]:5.2f}x  first token {ttft:.0f} ms")
    if reference:
        base = statistics.median(reference[1:])
        print(f"model.generate, one after another: {base:.1f} tokens/s")
        print("engine against it: " + ", ".join(f"{n} at once {speed / base:.2f}x" for n, speed in speeds.items()))
    print(json.dumps({"model": args.folder, "dtype": engine.info.dtype, "tokens_per_second": speeds}))
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main())
