"""Put the engine's pieces together for one loaded model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch

from daemon.engines.base import EngineInfo, LoadOptions, LoadProgress
from daemon.engines.transformers.attention import AttentionKind
from daemon.engines.transformers.core import EngineCore, Runner
from daemon.engines.transformers.detokenizer import DetokenizerFactory
from daemon.engines.transformers.embeddings import Embedder
from daemon.engines.transformers.encoder import EncoderEngine
from daemon.engines.transformers.engine import TransformersEngine
from daemon.engines.transformers.families import has_relative_positions
from daemon.engines.transformers.flash_rows import flash_usable
from daemon.engines.transformers.heap import trim_heap
from daemon.engines.transformers.kernels.attending import DecodeAttention, load_decode_attention
from daemon.engines.transformers.kv_store import LayerSpec
from daemon.engines.transformers.lean import LeanDecoder, build_lean
from daemon.engines.transformers.loader import LoadedModel, kv_budget, load_model
from daemon.engines.transformers.lora import Adapters, install
from daemon.engines.transformers.packed import PackedRunner, adapters_compute, lean_agrees, probe_layers, step_time
from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.scheduler import Scheduler
from daemon.engines.transformers.seq2seq import Seq2SeqRunner
from daemon.engines.transformers.serial import SerialRunner
from daemon.engines.transformers.spinning import Spinning, make_spinning
from daemon.engines.transformers.stepping import DecoderStep, build_step, step_agrees, trial_time
from daemon.engines.transformers.threads import SIZES, ThreadPlan, choose_threads, is_fixed, measure_plan
from daemon.engines.transformers.vision import VisionRunner
from fcd.errors import ModelLoadError

log = logging.getLogger("fcd.engine")
MAX_BATCH = {"cuda": 256, "cpu": 64}
PREFILL_CHUNK = {"cuda": 2048, "cpu": 512}
"""Prompt tokens computed beside the decoding rows in one step: more is faster, and longer between tokens."""
FEW = 16
"""Tokens of a step that are taken for rows that decode, when threads are chosen."""
MAX_CACHED = 64
"""Finished rows that are kept as prefixes for later requests."""


@dataclass(frozen=True)
class Parts:
    """What loading made; `build_engine` starts the thread on it."""

    loaded: LoadedModel
    core: EngineCore
    detokenizers: DetokenizerFactory
    info: EngineInfo
    max_total: int
    decoder_start: Sequence[int] | None
    adapters: Adapters | None


def load_parts(options: LoadOptions, progress: LoadProgress) -> Parts | LoadedModel:
    """Load the model and size its KV store, which an encoder has none of. Slow; runs outside the event loop.

    Raises:
        ModelLoadError: with the cause and the next step.
    """
    # From the start: until the machine has been found quiet, no thread spins.
    spinning = make_spinning()
    loaded = load_model(options, progress)
    if loaded.kind == "encoder":
        progress("ready", 1.0, 1.0)
        return loaded
    progress("kv cache", 0.0, 0.0)
    info = loaded.info
    device = torch.device(info.device)
    runner, pool, adapters = _make_runner(loaded, lambda: kv_budget(options, device), spinning, progress)
    if adapters is not None:
        info = msgspec.structs.replace(info, memory_bytes=info.memory_bytes + adapters.bytes)
    parallel = options.max_batch or MAX_BATCH.get(device.type, 32)
    chunk = PREFILL_CHUNK.get(device.type, 512) if loaded.kind == "packed" else 0
    scheduler = Scheduler(pool, max_running=parallel, max_waiting=options.max_waiting, chunk=chunk)
    detokenizers = DetokenizerFactory(loaded.tokenizer)
    ahead = _make_graphs(runner, parallel, progress)
    core = EngineCore(runner, scheduler, pool, detokenizers, model_bytes=info.memory_bytes, ahead=ahead)
    info = msgspec.structs.replace(info, parallel=parallel)
    progress("ready", 1.0, 1.0)
    start = decoder_start(loaded.model) if loaded.kind == "seq2seq" else None
    return Parts(loaded, core, detokenizers, info, pool.max_tokens, start, adapters)


def _make_runner(
    loaded: LoadedModel, budget: Callable[[], int], spinning: Spinning | None, progress: LoadProgress
) -> tuple[Runner, RowPool, Adapters | None]:
    """The runner, its rows and the adapters; `budget` is asked once everything else has its memory."""
    runner, pool, adapters = _make_text_runner(loaded, budget, spinning, progress)
    if loaded.processor is None:
        return runner, pool, adapters
    threads = runner.threads if isinstance(runner, PackedRunner) else None
    return VisionRunner(loaded.model, runner, threads), pool, adapters


def _make_text_runner(
    loaded: LoadedModel, budget: Callable[[], int], spinning: Spinning | None, progress: LoadProgress
) -> tuple[PackedRunner | SerialRunner | Seq2SeqRunner, RowPool, Adapters | None]:
    model, context = loaded.model, loaded.info.context_length
    if loaded.kind == "packed":
        device = torch.device(loaded.info.device)
        layers, kinds = probe_layers(model, device)
        lean = None if loaded.came_quantized else build_lean(model, kinds)
        if lean is not None and not lean_agrees(model, lean, device):
            log.warning("the lean forward differs from %s's own; it is not used", loaded.info.architecture)
            lean = None
        if device.type == "cpu":
            # Compiled the first time on a machine, which takes seconds.
            progress("kernels", 0.0, 0.0)
        layers, kernel, stepper = _compiled(loaded, lean, layers, kinds)
        adapters = _install_adapters(loaded, lean)
        if device.type == "cuda":
            # What merging the weights left unused goes back to the device.
            torch.cuda.empty_cache()
        else:
            trim_heap()
        threads = None
        if device.type == "cpu":
            threads = _tune_threads(spinning, _step_timer(model, lean, stepper, layers))
        flash = flash_usable(layers, kinds, model.config.get_text_config(decoder=True).num_attention_heads)
        per_token = sum(layer.bytes_per_token for layer in layers)
        pool = _make_pool(context, per_token, budget(), max_cached=MAX_CACHED, scattered=flash)
        runner = PackedRunner(model, pool, layers, lean, threads, adapters, flash=flash, kernel=kernel, stepper=stepper)
        return runner, pool, adapters
    pool = _make_pool(context, _cache_bytes_per_token(model), budget(), max_cached=0)
    if loaded.kind == "serial":
        return SerialRunner(model), pool, None
    return Seq2SeqRunner(model, relative=has_relative_positions(model.config)), pool, None


def _compiled(
    loaded: LoadedModel, lean: LeanDecoder | None, layers: list[LayerSpec], kinds: list[AttentionKind]
) -> tuple[list[LayerSpec], DecodeAttention | None, DecoderStep | None]:
    """What is compiled for rows that decode: whole steps, or their attention where the model or its adapters need
    operators; and what the layers store for it, which is fp16 where it may be."""
    if any(layer.dtype != torch.float32 or layer.device.type != "cpu" for layer in layers):
        return layers, None, None
    half = loaded.half_cache and all(kind.plain for kind in kinds)
    stored = [replace(layer, dtype=torch.float16 if half else torch.float32) for layer in layers]
    stepper = None if lean is None else _stepper(lean, stored, loaded)
    if stepper is not None and not loaded.adapters:
        return stored, None, stepper
    kernel = load_decode_attention(stored[0].dtype)
    return (layers, None, None) if kernel is None else (stored, kernel, stepper)


def _install_adapters(loaded: LoadedModel, lean: LeanDecoder | None) -> Adapters | None:
    """Put the LoRA adapters over the model.

    Raises:
        ModelLoadError: one does not fit it, or cannot be computed in packed batches.
    """
    if not loaded.adapters:
        return None
    device = torch.device(loaded.info.device)
    adapters = install(loaded.model, lean, loaded.adapters, loaded.dtype)
    if not adapters_compute(loaded.model, lean, adapters, device):
        raise ModelLoadError(
            f"The adapters cannot be computed over {loaded.info.architecture}: its layers do not see whole batches.",
            hint="Merge the adapter into the model, or load it without.",
        )
    return adapters


def _stepper(lean: LeanDecoder, layers: list[LayerSpec], loaded: LoadedModel) -> DecoderStep | None:
    """The compiled step, where there is one for the model that computes what the lean form does."""
    stepper = build_step(lean, layers)
    # Keys and values are rounded to fp16; inputs of 8-bit products, by whole steps that a last bit may tip over.
    bound = 0.1 if loaded.info.quantization else 0.02
    if stepper is not None and not step_agrees(stepper, lean, layers, bound):
        log.warning("the compiled step differs from %s's own; it is not used", loaded.info.architecture)
        return None
    return stepper


def _step_timer(
    model: Any, lean: LeanDecoder | None, stepper: DecoderStep | None, layers: list[LayerSpec]
) -> Callable[[int], float]:
    """Seconds for a step of so many tokens: few are rows that decode, many mostly prompts."""

    def time_of(tokens: int) -> float:
        if stepper is not None and tokens <= FEW:
            return trial_time(stepper, layers, tokens)
        return step_time(model, lean, torch.device("cpu"), tokens)

    return time_of


def _tune_threads(spinning: Spinning | None, step: Callable[[int], float]) -> ThreadPlan:
    """Measure how many threads make this model's steps fastest here and now, unless the user has said how many."""
    if is_fixed():
        return ThreadPlan([(0, choose_threads())], spinning)
    if spinning is not None:
        # As quiet or busy as the machine is now.
        spinning.settle()

    def time_of(count: int, tokens: int) -> float:
        torch.set_num_threads(count)
        return step(tokens)

    plan = measure_plan(choose_threads(), time_of, spinning)
    log.info("threads for steps of %s tokens: %s", SIZES, [plan.threads(size) for size in SIZES])
    return plan


def _make_graphs(runner: Runner, parallel: int, progress: LoadProgress) -> PackedRunner | None:
    """Capture the decode steps of a runner that can have them; gives the runner if it has."""
    if not isinstance(runner, PackedRunner) or not runner.make_graphs(parallel):
        return None
    assert runner.graphs is not None
    runner.graphs.prepare(lambda done, total: progress("cuda graphs", done, total))
    return runner


def _make_pool(context: int, per_token: int, budget: int, *, max_cached: int, scattered: bool = False) -> RowPool:
    if budget < per_token * min(context, 256):
        raise ModelLoadError(
            f"Only {budget / 2**20:.0f} MiB are left for the KV cache, which holds {budget // per_token} tokens.",
            hint="Use a smaller model or --load-8bit, or free memory.",
        )
    return RowPool(context, per_token, budget, max_cached=max_cached, scattered=scattered)


def _cache_bytes_per_token(model: Any) -> int:
    """What a model that manages its own cache may keep for each token, at most: K and V of every layer, twice for a
    decoder that also keeps them for its prompt."""
    config = model.config.get_text_config(decoder=True)
    layers = getattr(config, "num_decoder_layers", None) or config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 0)
    size = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    width = heads * size if heads and size else config.hidden_size
    both = 2 if model.config.is_encoder_decoder else 1
    return int(2 * layers * width * model.dtype.itemsize * both)


def decoder_start(model: Any) -> list[int]:
    """The ids that an encoder-decoder model's answer begins with.

    Raises:
        ModelLoadError: the configuration names none.
    """
    settings = (model.generation_config, model.config)
    start = next((v for s in settings if (v := getattr(s, "decoder_start_token_id", None)) is not None), None)
    if start is None:
        start = next((v for s in settings if (v := getattr(s, "bos_token_id", None)) is not None), None)
    if start is None:
        raise ModelLoadError(
            "The model's configuration names no decoder_start_token_id.", hint="Add it to generation_config.json."
        )
    forced = next((v for s in settings if (v := getattr(s, "forced_bos_token_id", None)) is not None), None)
    return [start] if forced is None else [start, forced]


def build_engine(parts: Parts | LoadedModel) -> TransformersEngine | EncoderEngine:
    """Start the engine's thread; must run inside the event loop that will use it."""
    if isinstance(parts, LoadedModel):
        return EncoderEngine(parts.info, parts.tokenizer, Embedder(parts.model, packed=False, pooling=parts.pooling))
    loaded = parts.loaded
    embedder = Embedder(loaded.model, packed=loaded.kind == "packed", adapters=parts.adapters, pooling=loaded.pooling)
    return TransformersEngine(
        parts.info,
        parts.loaded.tokenizer,
        parts.core,
        parts.detokenizers,
        embedder,
        max_total=parts.max_total,
        decoder_start=parts.decoder_start,
        images=loaded.processor,
    )
