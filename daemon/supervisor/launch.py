"""What is started for a model: the same command line that a person would type on another machine."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

import fcd
from daemon.controller.vllm_sizes import parallel_of, share_of_words
from daemon.scheduler.placement import Needs
from fcd.wire.admin import ModelOptions

Source = Literal["builtin", "config", "cache", "worker", "path"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._@+-]+")
_LONGEST_NAME = 64

TOKEN_VARIABLE = "FCD_JOIN_TOKEN"
WATCH_VARIABLE = "FCD_PARENT_WATCH"
SETTINGS_VARIABLE = "FCD_SETTINGS_FILE"
_NOT_FOR_WORKERS = ("FCD_API_KEY", TOKEN_VARIABLE)


class Place(msgspec.Struct, frozen=True):
    """Where a worker is to run. Neither: it finds out for itself."""

    gpus: tuple[str, ...] = ()
    """GPUs by UUID."""
    in_ram: bool = False
    """On the CPU, though there are GPUs."""
    share: float = 0.0
    """Of each GPU's whole memory, for engines that take a share of it; 0 leaves it to the engine."""
    kv_bytes: int = 0
    """For the KV cache; 0 leaves it to the worker."""


class LaunchSpec(msgspec.Struct, frozen=True):
    """A model that can be started here."""

    name: str
    """What requests call it."""
    target: str
    """What the worker program is given: a name, a folder or a repo."""
    names: tuple[str, ...] = ()
    """Further names that it answers to."""
    options: ModelOptions = msgspec.field(default_factory=ModelOptions)
    source: Source = "path"
    path: str = ""
    context_length: int = 0
    estimate: int = 0
    """Bytes that it will take where it is likely to go; 0 is not known."""
    needs: Needs = Needs()
    replicas: int = 1
    unused_limit: str = ""
    """`max_gpu_memory` of config.toml, where the model goes to no GPU: it is not among the options then."""

    @property
    def all_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.name, *self.names)))


def worker_name(model: str) -> str:
    """A name for a model's workers that can stand in a URL, a file's name and a shell."""
    return _UNSAFE.sub("-", model).strip("-.")[-_LONGEST_NAME:] or "model"


def worker_command(
    spec: LaunchSpec, worker: str, *, controller: str, socket: str, place: Place | None = None
) -> list[str]:
    """`fcd worker run ...` with nothing secret in it."""
    # `-m` would import from the current folder first, whatever lies there; -P forbids that.
    command = [sys.executable, "-P", "-m", "fcd", "worker", "run", spec.target]
    command += ["--controller", controller, "--host", "127.0.0.1", "--port", "0", "--worker-id", worker]
    command += ["--model-names", ",".join(spec.all_names)]
    if socket:
        command += ["--socket", socket]
    if place is not None and place.kv_bytes and spec.options.engine in ("", "transformers"):
        command += ["--kv-bytes", str(place.kv_bytes)]
    return command + model_flags(placed(spec.options, place or Place()))


def placed(options: ModelOptions, place: Place) -> ModelOptions:
    """The options as the worker must see them: the GPUs that it is given are all that it has, counted from 0."""
    if place.in_ram and options.engine in ("", "transformers"):
        return msgspec.structs.replace(options, device="cpu", gpus="", num_gpus=0, max_gpu_memory="")
    if place.gpus:
        number = len(place.gpus) if len(place.gpus) > 1 else 0
        device = options.device.partition(":")[0]
        options = msgspec.structs.replace(options, device=device, gpus="", num_gpus=number)
        if options.engine == "vllm":
            return _placed_vllm(options, place)
    return options


def _placed_vllm(options: ModelOptions, place: Place) -> ModelOptions:
    """What the user said of vLLM's own numbers stays as it is."""
    if parallel_of(options.engine_args):
        options = msgspec.structs.replace(options, num_gpus=0)
    if place.share and not options.gpu_memory_utilization and not share_of_words(options.engine_args):
        options = msgspec.structs.replace(options, gpu_memory_utilization=place.share)
    return options


def share_of(claims: Mapping[str, int], totals: Mapping[str, int], free: Mapping[str, int]) -> float:
    """The share of each GPU that holds what was set aside there, no more than is free; 0: not known.

    vLLM refuses to start when less than its share is free.
    """
    cards = {device: size for device, size in claims.items() if size > 0 and totals.get(device)}
    if not cards or len(cards) != len(claims):
        return 0.0
    wanted = max(size / totals[device] for device, size in cards.items())
    most = min(free.get(device, totals[device]) / totals[device] for device in cards)
    return math.floor(min(wanted, most, 0.98) * 1000) / 1000


def model_flags(options: ModelOptions) -> list[str]:
    """The flags for what is not left to the worker to decide."""
    values = {
        "--engine": options.engine,
        "--device": options.device,
        "--dtype": options.dtype,
        "--num-gpus": str(options.num_gpus or ""),
        "--gpus": options.gpus,
        "--max-gpu-memory": options.max_gpu_memory,
        "--revision": options.revision,
        "--conv-template": options.conv_template,
        "--tokenizer": options.tokenizer,
        "--quantization": options.quantize_with,
        "--gpu-memory-utilization": f"{options.gpu_memory_utilization:g}" if options.gpu_memory_utilization else "",
        "--max-model-len": str(options.max_model_len or ""),
    }
    flags = [part for flag, value in values.items() if value for part in (flag, value)]
    if options.quantization:
        flags.append(f"--load-{options.quantization}")
    for name, path in options.lora_modules.items():
        flags += ["--lora-modules", f"{name}={path}"]
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    return flags + (["--", *options.engine_args] if options.engine_args else [])


def worker_environment(
    token: str,
    environ: Mapping[str, str] | None = None,
    *,
    place: Place | None = None,
    settings_file: Path | None = None,
) -> dict[str, str]:
    """The daemon's own environment with the worker's token, which argv would show to everybody, and its GPUs."""
    env = {name: value for name, value in (environ or os.environ).items() if name not in _NOT_FOR_WORKERS}
    root = str(Path(fcd.__file__).resolve().parent.parent)
    known = env.get("PYTHONPATH", "").split(os.pathsep)
    if root not in known and "site-packages" not in root:
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, known)])
    env[TOKEN_VARIABLE] = token
    env[WATCH_VARIABLE] = "1"
    env["PYTHONUNBUFFERED"] = "1"
    if settings_file is not None:
        env[SETTINGS_VARIABLE] = str(settings_file)
    if place is not None and (place.gpus or place.in_ram):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
    return env
