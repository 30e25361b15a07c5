"""Put the engine's pieces together for one loaded model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import torch

from daemon.engines.base import EngineInfo, LoadOptions, LoadProgress
from daemon.engines.transformers.core import EngineCore, Runner
from daemon.engines.transformers.detokenizer import DetokenizerFactory
from daemon.engines.transformers.embeddings import Embedder
from daemon.engines.transformers.engine import TransformersEngine
from daemon.engines.transformers.loader import LoadedModel, kv_budget, load_model
from daemon.engines.transformers.packed import PackedRunner, probe_layers
from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.scheduler import Scheduler
from fcd.errors import ModelLoadError

MAX_BATCH = {"cuda": 256, "cpu": 64}


@dataclass(frozen=True)
class Parts:
    """What loading made; `build_engine` starts the thread on it."""

    loaded: LoadedModel
    core: EngineCore
    detokenizers: DetokenizerFactory
    info: EngineInfo
    max_total: int
    decoder_start: Sequence[int] | None


def load_parts(options: LoadOptions, progress: LoadProgress) -> Parts:
    """Load the model and size its KV store. Slow; runs outside the event loop.

    Raises:
        ModelLoadError: with the cause and the next step.
    """
    loaded = load_model(options, progress)
    progress("kv cache", 0.0, 0.0)
    model, info = loaded.model, loaded.info
    device = torch.device(info.device)
    layers = probe_layers(model, device)
    per_token = sum(layer.bytes_per_token for layer in layers)
    budget = kv_budget(options, device)
    if budget < per_token * 256:
        raise ModelLoadError(
            f"Only {budget / 2**20:.0f} MiB are left for the KV cache, which holds {budget // per_token} tokens.",
            hint="Use a smaller model or --load-8bit, or free memory.",
        )
    pool = RowPool(info.context_length, per_token, budget)
    runner: Runner = PackedRunner(model, pool, layers)
    parallel = options.max_batch or MAX_BATCH.get(device.type, 32)
    scheduler = Scheduler(pool, max_running=parallel, max_waiting=options.max_waiting)
    detokenizers = DetokenizerFactory(loaded.tokenizer)
    core = EngineCore(runner, scheduler, pool, detokenizers, model_bytes=info.memory_bytes)
    info = msgspec.structs.replace(info, parallel=parallel)
    progress("ready", 1.0, 1.0)
    return Parts(loaded, core, detokenizers, info, pool.max_tokens, None)


def build_engine(parts: Parts) -> TransformersEngine:
    """Start the engine's thread; must run inside the event loop that will use it."""
    embedder = Embedder(parts.loaded.model, packed=parts.loaded.packed)
    return TransformersEngine(
        parts.info,
        parts.loaded.tokenizer,
        parts.core,
        parts.detokenizers,
        embedder,
        max_total=parts.max_total,
        decoder_start=parts.decoder_start,
    )
