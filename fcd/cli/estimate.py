"""How much memory a model will need, said before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcd.cli.machine import gpus, loaded_dtype
from fcd.cli.output import print_json, size
from fcd.errors import EXIT_OK, NotFound

if TYPE_CHECKING:
    from fcd.catalog import Estimate
    from fcd.wire.admin import ModelOptions


def print_estimate(name: str, options: ModelOptions, *, as_json: bool) -> int:
    """By the safetensors' headers and config.json; nothing is loaded.

    Raises:
        NotFound: the model's files are not here.
    """
    from fcd.catalog import estimate, read_facts, resolve
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    reference = resolve(name, load_settings(resolve_paths().config_file), revision=options.revision)
    if reference.path is None or not reference.path.is_dir():
        raise NotFound(
            f"{reference.repo or name} is not on this machine, so its files cannot be read.",
            hint=f"`fcd pull {reference.repo or name}` downloads it.",
        )
    quantization = options.quantization or reference.quantization
    native = read_facts(reference.path).dtype
    dtype = loaded_dtype(options.device or reference.options.device, options.dtype or reference.options.dtype, native)
    found = estimate(reference.path, quantization, dtype=dtype)
    facts = _facts(found, quantization, dtype or native)
    if as_json:
        print_json({"model": reference.name, **facts})
    else:
        _print(reference.name, found, facts)
    return EXIT_OK


def _facts(found: Estimate, quantization: str, dtype: str) -> dict[str, Any]:
    import psutil

    cards = gpus()
    return {
        "parameters": found.parameters,
        "dtype": dtype,
        "quantization": quantization,
        "weights_bytes": found.weights_bytes,
        "kv_bytes_per_token": found.kv_bytes_per_token,
        "context_length": found.context_length,
        "full_context_bytes": found.total_bytes(found.context_length),
        "memory_available_bytes": psutil.virtual_memory().available,
        "gpu_free_bytes": sum(card.free_bytes for card in cards),
    }


def _print(name: str, found: Estimate, facts: dict[str, Any]) -> None:
    as_type = " ".join(part for part in (facts["dtype"], facts["quantization"]) if part)
    print(f"{name}: {found.parameters / 1e6:.1f} M parameters")
    print(f"weights          {size(found.weights_bytes)}" + (f" ({as_type})" if as_type else ""))
    if found.kv_bytes_per_token:
        print(f"KV cache         {size(found.kv_bytes_per_token)} for each token")
    else:
        print("KV cache         not known: config.json does not say enough")
    if found.context_length and found.kv_bytes_per_token:
        full = size(found.total_bytes(found.context_length))
        print(f"with one context {full} ({found.context_length} tokens)")
    if facts["gpu_free_bytes"]:
        print(f"free on GPUs     {size(facts['gpu_free_bytes'])}")
    print(f"memory available {size(facts['memory_available_bytes'])}")
    room = facts["gpu_free_bytes"] or facts["memory_available_bytes"]
    if found.weights_bytes > room:
        print("It does not fit. --load-8bit or --load-4bit make it smaller.")
    print("A worker takes some hundred MB besides, for Python and PyTorch.")
