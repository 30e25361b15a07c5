"""How much memory a model will need and where it would go, said before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcd.cli.model_flags import for_daemon
from fcd.cli.output import print_json, size
from fcd.errors import EXIT_OK, NotFound

if TYPE_CHECKING:
    from fcd.wire.admin import EstimateReply, ModelOptions


async def print_estimate(name: str, options: ModelOptions, *, as_json: bool) -> int:
    """By the safetensors' headers and config.json; nothing is loaded. A daemon that runs knows where it would go.

    Raises:
        NotFound: the model's files are not here.
    """
    from fcd.client import Client
    from fcd.errors import NotRunning
    from fcd.wire.admin import LoadRequest

    async with Client() as client:
        try:
            found, asked = await client.estimate(LoadRequest(for_daemon(name), options)), True
        except NotRunning:
            found, asked = _from_files(name, options), False
    if not found.known:
        raise NotFound(
            f"{found.model} is not on this machine, so its files cannot be read.",
            hint=f"`fcd pull {found.model}` downloads it.",
        )
    if as_json:
        print_json(found)
    else:
        _print(found, asked)
    return EXIT_OK


def _from_files(name: str, options: ModelOptions) -> EstimateReply:
    """The sizes alone."""
    from fcd.catalog import estimate, read_facts, resolve
    from fcd.machine import keeps_packed, loaded_dtype
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings
    from fcd.wire.admin import EstimateReply

    reference = resolve(name, load_settings(resolve_paths().config_file), revision=options.revision)
    if reference.path is None or not reference.path.is_dir():
        return EstimateReply(reference.repo or name, known=False)
    quantization = options.quantization or reference.quantization
    native = read_facts(reference.path).dtype
    device = options.device or reference.options.device
    dtype = loaded_dtype(device, options.dtype or reference.options.dtype, native, quantization)
    packed = device in ("", "auto", "cpu") and not quantization and keeps_packed(dtype, native)
    found = estimate(reference.path, quantization, dtype=dtype, packed=packed)
    return EstimateReply(
        reference.name,
        known=True,
        parameters=found.parameters,
        dtype=dtype or native,
        quantization=quantization,
        weights_bytes=found.weights_bytes,
        kv_bytes_per_token=found.kv_bytes_per_token,
        context_length=found.context_length,
        full_context_bytes=found.total_bytes(found.context_length),
    )


def _print(found: EstimateReply, asked: bool) -> None:
    as_type = " ".join(part for part in (found.dtype, found.quantization) if part)
    print(f"{found.model}: {found.parameters / 1e6:.1f} M parameters")
    print(f"weights          {size(found.weights_bytes)}" + (f" ({as_type})" if as_type else ""))
    if found.kv_bytes_per_token:
        print(f"KV cache         {size(found.kv_bytes_per_token)} for each token")
    else:
        print("KV cache         not known: config.json does not say enough")
    if found.context_length and found.kv_bytes_per_token:
        print(f"with one context {size(found.full_context_bytes)} ({found.context_length} tokens)")
    if not asked:
        print("where it would go: a running daemon knows (`fcd daemon start`)")
        return
    print(f"a worker takes   {size(found.needed_bytes)} at first")
    if found.loaded:
        print("It is loaded already.")
    elif not found.fits:
        print(f"It does not fit. {found.reason}")
        print("--load-8bit or --load-4bit make it smaller; `fcd unload` makes room.")
    for share in found.devices:
        print(f"would go to      {share.name}: {size(share.bytes)} of {size(share.free)} free")
    if found.gpus:
        cut = f"over {found.gpus} GPUs (tensor parallel)" if found.gpus > 1 else "on one GPU"
        part = f"{found.gpu_memory_utilization:g}" if found.gpu_memory_utilization else "its own share"
        print(f"vLLM runs it     {cut}, with {part} of the memory (--gpu-memory-utilization)")
    if found.sleeps:
        print(f"would put to sleep {', '.join(found.sleeps)}")
    if found.unloads:
        print(f"would unload     {', '.join(found.unloads)}")
