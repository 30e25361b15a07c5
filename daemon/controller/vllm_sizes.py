"""What vLLM will take of this machine's GPUs for a model, and over how many of them it can be cut.

vLLM takes a fixed share of each GPU when it starts: weights, activations and graphs, and the rest for its KV cache.
What it must have is the weights, the KV cache of a short context and what it keeps for itself; it can use more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from daemon.scheduler.placement import SPREAD_BYTES, Needs
from fcd.catalog import Estimate, ModelFacts, Reference, estimate, read_facts
from fcd.wire.admin import ModelOptions

OVERHEAD_BYTES = 2 * 2**30
"""Activations of a full batch, CUDA graphs and the CUDA context; an assumption, on the safe side for models of 7B."""
OVERHEAD_SHARE = 0.05
"""The same, as a share of the weights: wider models have wider activations."""
LEAST_TOKENS = 8192
"""Tokens of KV cache that it must have room for, or one context where that is shorter."""
WISHED_TOKENS = 64 * 1024
"""Tokens of KV cache that it makes use of: a few dozen conversations at once; one context at least."""
_MOST_GPUS = 64
_BITS = {"fp8": "8bit", "bitsandbytes": "4bit", "int8": "8bit"}


class VllmSizes(msgspec.Struct, frozen=True):
    """In bytes, over all GPUs together."""

    weights: int
    least: int
    wished: int
    splits: tuple[int, ...]


def vllm_sizes(reference: Reference, options: ModelOptions) -> VllmSizes | None:
    """None when the model's files are not here, or say nothing."""
    if reference.path is None or not reference.path.is_dir():
        return None
    facts = read_facts(reference.path)
    found = _estimate(reference, options, facts)
    if found is None:
        return None
    weights = found.weights_bytes
    own = weights + OVERHEAD_BYTES + int(weights * OVERHEAD_SHARE)
    context = options.max_model_len or found.context_length or LEAST_TOKENS
    token = found.kv_bytes_per_token
    least = own + token * min(context, LEAST_TOKENS)
    return VllmSizes(weights, least, own + token * max(context, WISHED_TOKENS), splits(facts))


def vllm_needs(
    reference: Reference, options: ModelOptions, totals: Mapping[str, int], *, pins: tuple[str, ...], cap: int
) -> Needs:
    """On GPUs alone. `totals` has each GPU's whole memory, which the share that was asked for is of."""
    sizes = vllm_sizes(reference, options) or VllmSizes(0, 0, 0, ())
    count = options.num_gpus or parallel_of(options.engine_args)
    share = options.gpu_memory_utilization or share_of_words(options.engine_args)
    least, wished = sizes.least, sizes.wished
    if share and totals:
        each = int(share * max(totals.values()))
        able = [size for size in sizes.splits or (1,) if each * size >= least]
        count = count or len(pins) or (able[0] if able else 1)
        least = wished = each * count - SPREAD_BYTES * (count - 1)
    return Needs(
        gpu=least,
        wish=wished,
        allow_cpu=False,
        pins=pins,
        count=count,
        cap=cap,
        splits=sizes.splits,
        even=True,
        rest=sizes.weights,
    )


def splits(facts: ModelFacts) -> tuple[int, ...]:
    """The numbers of GPUs that tensor parallelism can use: they divide the attention heads, and the key and value heads
    or are a multiple of these. Powers of two first, which is what its kernels are tuned for. Empty: not known."""
    heads, kv_heads = facts.attention_heads, facts.kv_heads or facts.attention_heads
    if not heads:
        return ()
    fits = [
        size
        for size in range(1, min(heads, _MOST_GPUS) + 1)
        if heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
    ]
    return tuple(sorted(fits, key=lambda size: (size & (size - 1) != 0, size)))


def parallel_of(words: Sequence[str]) -> int:
    """How many GPUs the user's own words for vLLM ask for; 0: they say nothing of it."""
    tensor = _number(words, "--tensor-parallel-size", "-tp")
    pipeline = _number(words, "--pipeline-parallel-size", "-pp")
    return int(max(1, tensor) * max(1, pipeline)) if tensor or pipeline else 0


def share_of_words(words: Sequence[str]) -> float:
    """The share of each GPU that the user's own words ask for; 0: none."""
    found = _number(words, "--gpu-memory-utilization")
    return found if 0 < found <= 1 else 0.0


def _number(words: Sequence[str], *flags: str) -> float:
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
        if name in flags:
            text = value if equals else words[place + 1] if place + 1 < len(words) else ""
            try:
                return float(text)
            except ValueError:
                return 0.0
    return 0.0


def _estimate(reference: Reference, options: ModelOptions, facts: ModelFacts) -> Estimate | None:
    assert reference.path is not None
    quantization = options.quantization or _BITS.get(options.quantize_with, "")
    dtype = options.dtype if options.dtype not in ("", "auto") else ""
    if not dtype and facts.dtype == "float32":
        dtype = "bfloat16"  # as vLLM has it
    try:
        found = estimate(reference.path, quantization, dtype=dtype)
    except (OSError, ValueError, KeyError):
        return None
    return found if found.weights_bytes else None
