"""From a folder of weights to a running engine."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil
import torch

from daemon.engines.base import EngineInfo, LoadOptions, LoadProgress
from daemon.engines.transformers import attention, devices
from daemon.engines.transformers.adapter_files import AdapterFile, read_adapters
from daemon.engines.transformers.context import context_length
from daemon.engines.transformers.families import (
    can_pack,
    encoder_length,
    has_eyes,
    has_pooler,
    is_encoder,
    is_softcapped,
)
from daemon.engines.transformers.folder import check_folder, tokenizer_missing
from daemon.engines.transformers.heap import separate_blocks
from daemon.engines.transformers.lowbit import LowBit
from daemon.engines.transformers.number_format import NumberFormat, choose_on_cpu
from daemon.engines.transformers.packed import packed_agrees
from daemon.engines.transformers.placement import Placement, gpu_kv_bytes, left_in_memory, parse_bytes, place
from daemon.engines.transformers.pooling import Pooling, read_pooling
from daemon.engines.transformers.prequantized import check_prequantized
from daemon.engines.transformers.processor import ImageProcessor, load_processor
from daemon.engines.transformers.progress import report_progress
from daemon.engines.transformers.quantizer import bits_of, half_config, quantization_config
from daemon.engines.transformers.threads import choose_threads
from fcd.errors import FcdError, ModelLoadError
from fcd.machine import fp32_fits
from fcd.paths import resolve_paths

log = logging.getLogger("fcd.engine")
_load_lock = threading.Lock()

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)
Kind = Literal["packed", "serial", "seq2seq", "encoder"]


@dataclass(frozen=True)
class LoadedModel:
    """A model and tokenizer in memory, with what the engine needs to know of them."""

    model: Any
    tokenizer: Any
    info: EngineInfo
    kind: Kind
    """Which runner serves it; an encoder has none."""
    adapters: Sequence[AdapterFile] = ()
    """LoRA adapters that are to be put over it."""
    pooling: Pooling = field(default_factory=Pooling)
    """How its embeddings are made."""
    came_quantized: bool = False
    """The checkpoint's own library computes some of its layers."""
    dtype: torch.dtype = torch.float32
    """Of its activations."""
    half_cache: bool = False
    """Whether keys and values may be kept in fp16: the checkpoint has 16 bits, and nobody asked for more."""
    processor: ImageProcessor | None = None
    """What reads its images; None for a model that sees none here."""


def load_model(options: LoadOptions, progress: LoadProgress) -> LoadedModel:
    """Load what `options` describe.

    Raises:
        ModelLoadError: with the cause and the next step.
    """
    try:
        # transformers' progress hook and default dtype are process-wide.
        with _load_lock, separate_blocks():
            return _load(options, progress)
    except FcdError:
        raise
    except Exception as error:
        log.debug("loading failed", exc_info=True)
        raise explain(error, options) from error


def _load(options: LoadOptions, progress: LoadProgress) -> LoadedModel:
    from transformers import AutoConfig

    folder = check_folder(options.path)
    adapters = read_adapters(options.lora_modules)
    pooling = read_pooling(folder)
    progress("config", 0.0, 0.0)
    torch.set_num_threads(choose_threads())
    attention.register()
    trust = options.trust_remote_code
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    progress("tokenizer", 0.0, 0.0)
    device = devices.choose_device(options.device)
    stored = check_prequantized(config, device.type, options.quantization)
    tokenizer = _load_tokenizer(folder, trust)
    processor, blind = load_processor(folder, config, trust) if has_eyes(config) else (None, "")
    if processor is not None:
        tokenizer = processor.tokenizer
        tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
    native = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    form = NumberFormat(devices.choose_dtype(options.dtype, native, device))
    native = native or torch.float32
    if device.type == "cpu":
        # Compiled the first time on a machine, which takes seconds.
        progress("kernels", 0.0, 0.0)
    if device.type == "cpu" and native in _SIXTEEN_BITS and not stored and not options.quantization:
        form = _measured_format(folder, config, native, form.dtype if options.dtype not in {"", "auto"} else None)
    placement = place(options, device)
    family = _family(config, sees=processor is not None)
    model = _load_packed(folder, config, family, form, native, placement, options, progress) if form.packed else None
    if model is None:
        form = _plain(form, folder)
        model = _load_weights(folder, config, family, form.dtype, placement, options, progress)
    model.eval().requires_grad_(False)
    info = _describe(folder, model, tokenizer, placement.device, form, options)
    if is_encoder(config):
        longest = encoder_length(model, info.context_length, tokenizer.model_max_length, pooling.longest)
        info = msgspec.structs.replace(info, context_length=longest, capabilities=("embeddings",), parallel=1)
    elif pooling.longest:
        log.info("embeddings of up to %s tokens were meant by the model's authors", pooling.longest)
    if stored:
        info = msgspec.structs.replace(info, quantization=stored)
    kind = _runner_kind(model)
    if adapters and kind != "packed":
        raise no_adapters(options)
    images = None
    if processor is not None:
        images = ImageProcessor(processor)
        info = msgspec.structs.replace(info, capabilities=(*info.capabilities, "vision"))
    return LoadedModel(
        model,
        tokenizer,
        msgspec.structs.replace(info, blind=blind),
        kind,
        adapters,
        pooling,
        came_quantized=bool(stored),
        dtype=form.dtype,
        half_cache=native in _SIXTEEN_BITS and options.dtype in {"", "auto"},
        processor=images,
    )


def _measured_format(folder: Path, config: Any, native: torch.dtype, wanted: torch.dtype | None) -> NumberFormat:
    """What is faster on this CPU."""
    cache = resolve_paths().cache / "measured.json"
    free = psutil.virtual_memory().available
    return choose_on_cpu(config, _file_bytes(folder), free, cache, wanted, stored=native)


def _file_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _plain(form: NumberFormat, folder: Path) -> NumberFormat:
    """The format of a model that takes no packed weights: fp32 only where it fits."""
    if (
        form.packed
        and form.dtype == torch.float32
        and not fp32_fits(_file_bytes(folder), psutil.virtual_memory().available)
    ):
        return NumberFormat(torch.bfloat16)
    return NumberFormat(form.dtype)


def _load_packed(
    folder: Path,
    config: Any,
    family: Any,
    form: NumberFormat,
    native: torch.dtype,
    placement: Placement,
    options: LoadOptions,
    progress: LoadProgress,
) -> Any:
    """The model with packed 16-bit weights, or None where its code needs the weights as they are."""
    try:
        quantizer = half_config(native)
        model = _load_weights(folder, config, family, form.dtype, placement, options, progress, quantizer)
    except ModelLoadError as error:
        log.info("packed weights are not used: %s", error.message)
        return None
    if not computes(model.eval()):
        log.warning("%s multiplies by its weights itself, so they are not packed", type(model).__name__)
        return None
    log.info("products with 16-bit weights, computed in float32")
    return model


@torch.inference_mode()
def computes(model: Any) -> bool:
    """Whether numbers come out of a model: code that multiplies by a stand-in itself gets NaN, see LowBit."""
    ours = model.config._attn_implementation == attention.NAME
    ids = torch.arange(1, 6)[None]
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    if ours:
        model.set_attn_implementation("eager")
    try:
        out = model(input_ids=ids, **extra)
    except RuntimeError as error:
        log.debug("%s", error)
        return False
    finally:
        if ours:
            model.set_attn_implementation(attention.NAME)
    first = out.logits if "logits" in out else out.last_hidden_state
    return not bool(first.isnan().any())


def no_adapters(options: LoadOptions) -> ModelLoadError:
    """The refusal of adapters over a model that is not computed in packed batches."""
    return ModelLoadError(
        f"'{options.path}' takes no LoRA adapters here: only decoders whose layers are all attention do.",
        hint="Load it without --lora-modules, or merge the adapter into it.",
    )


def explain(error: Exception, options: LoadOptions) -> ModelLoadError:
    """An error of the libraries, in a sentence with the next step."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text.lower():
        return ModelLoadError(
            f"'{options.path}' does not fit into memory: {text}",
            hint="Try --load-8bit, a smaller model, or --max-gpu-memory with CPU offload.",
        )
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"'{options.path}' brings its own Python code, which is not run.",
            hint="Allow it with trust_remote_code only if you trust where the model comes from.",
        )
    if isinstance(error, ImportError):
        return ModelLoadError(
            f"'{options.path}' needs a library that is not installed: {text}",
            hint="Install it and load the model again.",
        )
    return ModelLoadError(
        f"'{options.path}' cannot be read by the transformers library: {text} ({type(error).__name__})",
        hint="Check that the folder is complete (fcd show MODEL), or download it again.",
    )


def _runner_kind(model: Any) -> Kind:
    if is_encoder(model.config):
        return "encoder"
    if model.config.is_encoder_decoder:
        return "seq2seq"
    if model.config._attn_implementation != attention.NAME:
        return "serial"
    if packed_agrees(model, model.get_input_embeddings().weight.device):
        return "packed"
    log.warning("%s does not compute the same through packed attention; it runs unbatched", type(model).__name__)
    model.set_attn_implementation("eager")
    return "serial"


def _load_tokenizer(folder: Path, trust: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    except Exception as error:
        # A few kinds need no files, so that they are missing is only said once it has failed.
        raise tokenizer_missing(folder) or error from error


def _family(config: Any, *, sees: bool) -> Any:
    """The class of transformers that loads a model: one that sees has its eyes loaded where they can be used."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    if is_encoder(config):
        return AutoModel
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    # Without a class for its text alone, it is loaded whole and asked for text.
    whole = sees or type(config) not in AutoModelForCausalLM._model_mapping
    return AutoModelForImageTextToText if has_eyes(config) and whole else AutoModelForCausalLM


def _load_weights(
    folder: Path,
    config: Any,
    kind: Any,
    dtype: torch.dtype,
    placement: Placement,
    options: LoadOptions,
    progress: LoadProgress,
    quantizer: Any = None,
) -> Any:
    from transformers import AutoModel

    ours = kind is not AutoModel and can_pack(config, kind._model_mapping.get(type(config), None))
    if options.lora_modules and not ours:
        raise no_adapters(options)
    extra = dict(placement.arguments)
    if kind is AutoModel and has_pooler(AutoModel._model_mapping[type(config)]):
        extra["add_pooling_layer"] = False
    if bits := bits_of(options.quantization):
        native = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
        quantizer = quantization_config(bits, placement.device, dtype, native)
    if quantizer is not None:
        extra["quantization_config"] = quantizer
    _say_what_stays(folder, placement, bits, progress)
    computed = attention.NAME if ours else "eager" if is_softcapped(config) else None
    with report_progress(progress):
        return kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            **extra,
            attn_implementation=computed,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=options.trust_remote_code,
        )


def _say_what_stays(folder: Path, placement: Placement, bits: int, progress: LoadProgress) -> None:
    """Say before loading that a part of the weights will be kept in main memory: each step will wait for it."""
    weights = _file_bytes(folder)
    weights = weights * bits // 16 if bits else weights
    if left := left_in_memory(weights, placement):
        said = f"weights, about {left / 2**30:.1f} of {weights / 2**30:.1f} GiB kept in RAM"
        log.warning("%s, because the GPU memory allowed is less; every token waits for them", said)
        progress(said, 0.0, 0.0)


def _describe(
    folder: Path, model: Any, tokenizer: Any, device: torch.device, form: NumberFormat, options: LoadOptions
) -> EngineInfo:
    config = model.config
    raw = json.loads((folder / "config.json").read_text())
    text = {**raw, **raw["text_config"]} if isinstance(raw.get("text_config"), dict) else raw
    limit = getattr(tokenizer, "model_max_length", None)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    capabilities = ("chat", "completions", "embeddings")
    return EngineInfo(
        model=options.path,
        architecture=type(model).__name__,
        context_length=context_length(text, int(limit) if limit else None),
        device=str(device),
        dtype=str(form),
        quantization=options.quantization,
        is_encoder_decoder=bool(config.is_encoder_decoder),
        eos_token_ids=eos_ids(model, tokenizer),
        vocab_size=vocabulary,
        memory_bytes=weight_bytes(model),
        capabilities=capabilities,
        adapters=tuple(options.lora_modules),
    )


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends an answer: the generation config's, the model config's and the tokenizer's."""
    found: list[int] = []
    text = model.config.get_text_config(decoder=True)
    for owner in (getattr(model, "generation_config", None), model.config, text, tokenizer):
        value = getattr(owner, "eos_token_id", None)
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, int) and item not in found:
                found.append(item)
    return tuple(found)


def weight_bytes(model: Any) -> int:
    """Bytes of the parameters and buffers, shared ones once, and of packed weights."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.device.type != "meta"]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    unseen = sum(module.unseen_bytes for module in model.modules() if isinstance(module, LowBit))
    return int(sum(storages.values()) + unseen)


def kv_budget(options: LoadOptions, device: torch.device) -> int:
    """Bytes for the KV cache: `kv_bytes`, else a share of what is free now (half of a CPU's, most of a GPU's)."""
    if options.kv_bytes > 0:
        return options.kv_bytes
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        limit = parse_bytes(options.max_gpu_memory) if options.max_gpu_memory else 0
        return gpu_kv_bytes(limit, free, torch.cuda.memory_allocated(device))
    return int(psutil.virtual_memory().available * 0.4)
