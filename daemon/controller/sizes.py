"""What a model will take, by its own files, and where its options allow it to go."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from daemon.controller.vllm_sizes import vllm_needs
from daemon.scheduler.placement import Needs
from daemon.supervisor.launch import LaunchSpec
from fcd.catalog import Estimate, Reference, estimate, read_facts
from fcd.errors import ConfigError, invalid
from fcd.machine import dtype_on_cpu, fp32_fits, keeps_packed
from fcd.settings import WorkerSettings, parse_size
from fcd.wire.admin import ModelOptions

RUNTIME_BYTES = 350 * 2**20
"""What a worker takes besides its model."""
TOKENS_COUNTED = 4096
"""Tokens of KV cache that a model is expected to hold at least."""


def needs_of(
    reference: Reference,
    options: ModelOptions,
    defaults: WorkerSettings,
    *,
    has_gpu: bool,
    totals: Mapping[str, int] | None = None,
) -> Needs:
    """Bytes on GPUs and in RAM, and the devices that the options allow. `totals`: the whole memory of each GPU.

    Raises:
        ApiError: 400; `max_gpu_memory` is not a size.
    """
    device, _, number = (options.device or defaults.device).partition(":")
    pins = tuple(part.strip() for part in (options.gpus or number).split(",") if part.strip())
    wants_gpu = device in ("cuda", "gpu") or bool(pins) or options.num_gpus > 0
    allow_gpu = has_gpu and (wants_gpu or device in ("", "auto"))
    if wants_gpu and not has_gpu:
        # GPUs that only the worker can see, or none: it says so itself.
        return Needs(allow_gpu=False)
    if options.engine == "vllm" and has_gpu:
        return vllm_needs(reference, options, totals or {}, pins=pins, cap=_cap(options))
    return Needs(
        gpu=_total(size_of(reference, options, defaults, on_gpu=True)) if allow_gpu else 0,
        cpu=_total(size_of(reference, options, defaults, on_gpu=False)),
        allow_gpu=allow_gpu,
        allow_cpu=not wants_gpu,
        pins=pins,
        count=options.num_gpus,
        cap=_cap(options),
        kv=_kv(size_of(reference, options, defaults, on_gpu=allow_gpu)) if options.engine != "command" else 0,
    )


def limits_nothing(options: ModelOptions, defaults: WorkerSettings, *, has_gpu: bool) -> bool:
    """Whether `max_gpu_memory` is asked for where our engine puts nothing on a GPU."""
    if not options.max_gpu_memory or options.engine not in ("", "transformers"):
        return False
    device = (options.device or defaults.device).partition(":")[0]
    if device in ("", "auto"):
        return not (has_gpu or options.gpus or options.num_gpus)
    return device == "cpu"


def notes_of(asked: ModelOptions, taken: LaunchSpec) -> list[str]:
    """What to tell whoever asked for a load, of what is left out of it."""
    if asked.max_gpu_memory and not taken.options.max_gpu_memory:
        return [_unused(f"--max-gpu-memory {asked.max_gpu_memory}", "--device cuda")]
    return config_notes(taken)


def config_notes(spec: LaunchSpec) -> list[str]:
    """What config.toml says of a model and is left out."""
    limit = spec.unused_limit
    return [_unused(f'max_gpu_memory = "{limit}" in config.toml', 'device = "cuda"')] if limit else []


def _unused(limit: str, device: str) -> str:
    return f"{limit} does nothing here: the model goes to main memory, not to a GPU ({device} insists on one)."


def size_of(reference: Reference, options: ModelOptions, defaults: WorkerSettings, *, on_gpu: bool) -> Estimate | None:
    """None when the model's files are not here, or say nothing."""
    if reference.path is None:
        return None
    if reference.kind == "command":
        # A file is read as it is; what the command adds to it only the command knows.
        return Estimate(reference.path.stat().st_size, 0, 0, 0) if reference.path.is_file() else None
    try:
        dtype = dtype_of(reference, options, defaults, on_gpu=on_gpu)
        on_cpu = not on_gpu and options.device != "mps" and not options.quantization
        packed = on_cpu and keeps_packed(dtype, read_facts(reference.path).dtype)
        found = estimate(reference.path, options.quantization, dtype=dtype, packed=packed)
    except (OSError, ValueError, KeyError):
        return None
    return found if found.weights_bytes else None


def dtype_of(reference: Reference, options: ModelOptions, defaults: WorkerSettings, *, on_gpu: bool) -> str:
    """What the weights will be held as; empty is what the files hold."""
    wanted = options.dtype or defaults.dtype
    if wanted not in ("", "auto"):
        return wanted
    native = read_facts(reference.path).dtype if reference.path is not None else ""
    if on_gpu or options.device == "mps" or not native:
        return ""
    found = dtype_on_cpu(native, options.quantization)
    return found if found != "float32" or options.quantization or _fits_wide(reference) else ""


def _fits_wide(reference: Reference) -> bool:
    """The engine's own rule: where fp32 would not fit, the numbers stay as they are."""
    if reference.path is None:
        return True
    weights = sum(file.stat().st_size for file in reference.path.glob("*.safetensors"))
    return fp32_fits(weights, psutil.virtual_memory().available)


def _total(found: Estimate | None) -> int:
    if found is None:
        return 0
    tokens = min(found.context_length or TOKENS_COUNTED, TOKENS_COUNTED)
    return found.total_bytes(tokens) + RUNTIME_BYTES


def _kv(found: Estimate | None) -> int:
    """The part of the total that is KV cache."""
    tokens = min(found.context_length or TOKENS_COUNTED, TOKENS_COUNTED) if found is not None else 0
    return found.total_bytes(tokens) - found.weights_bytes if found is not None else 0


def _cap(options: ModelOptions) -> int:
    try:
        return parse_size(options.max_gpu_memory) if options.max_gpu_memory else 0
    except ConfigError as error:
        raise invalid("max_gpu_memory", error.message) from None
