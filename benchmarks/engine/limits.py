"""How fast this machine could be at most: weights read once in a step, and the multiplications of its tokens."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What was measured: bytes read per second, and floating point operations per second in fp32 matrix products."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Limit:
    """Tokens per second that no engine on this machine can pass, K and V and everything else left out."""

    prompt: float
    decode: float

    def overall(self, prompt_tokens: int, tokens: int, streams: int) -> float:
        """Output tokens per second with prompts counted in. `decode` is that of all streams together."""
        return streams * tokens / (streams * prompt_tokens / self.prompt + streams * tokens / self.decode)


def measure_machine(threads: int) -> Machine:
    """The best of a few runs: what lies far beyond the caches is read, and large fp32 matrices multiplied."""
    import torch

    torch.set_num_threads(threads)
    read = torch.ones(1 << 28)
    left, right = torch.randn(1024, 2048), torch.randn(2048, 2048)
    seconds = _best(lambda: read.sum())
    return Machine(read.nbytes / seconds, 2 * 1024 * 2048 * 2048 / _best(lambda: left @ right))


def matrix_parameters(folder: Path) -> int:
    """Weights that every token is multiplied with: all matrices but the embedding table, which is only looked up."""
    config = json.loads((folder / "config.json").read_text())
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    dim, kv_heads = config["head_dim"], config["num_key_value_heads"]
    layer = 2 * width * dim * (heads + kv_heads) + 3 * width * inner
    return int(config["num_hidden_layers"] * layer + width * config["vocab_size"])


def limit_of(parameters: int, bytes_each: float, streams: int, machine: Machine) -> Limit:
    """A step takes at least as long as reading the weights, and as long as multiplying with them."""
    by_flops = machine.flops / (2 * parameters)
    by_bytes = streams * machine.bandwidth / (parameters * bytes_each)
    return Limit(by_flops, min(by_flops, by_bytes))


def _best(run: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def share(rates: list[float], limit: float) -> str:
    return f"{statistics.median(rates) / limit:.0%}"
