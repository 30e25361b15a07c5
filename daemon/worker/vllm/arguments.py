"""vLLM's command line for a model: from fcd's flags, the model's files and the machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from daemon.worker.vllm.families import ModelFiles, parsers_for
from daemon.worker.vllm.group import Part, parallel_flags, part_flags
from daemon.worker.vllm.hardware import Hardware
from fcd.errors import ModelLoadError, UsageError
from fcd.settings import parse_size
from fcd.wire.admin import ModelOptions

_OURS: Final = (
    *("--uds", "--api-key", "--served-model-name", "--headless", "--root-path", "--ssl-keyfile", "--ssl-certfile"),
    *("--nnodes", "-n", "--node-rank", "-r", "--master-addr", "--master-port"),
)
_NO_IMAGES: Final = re.compile(r"\bimage\W{1,4}0\b")
_LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_NO_DOMAIN: Final = "none.invalid"
"""A domain that cannot exist: images are taken as data only, and no client makes the server fetch a URL."""
_FP8_FAST, _FP8_AT_ALL, _BITSANDBYTES = 8.9, 7.5, 7.0
_GIB = 2**30
_USUAL_PARALLEL = 512


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One way to start vLLM."""

    folder: str
    names: tuple[str, ...]
    adapters: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    """What does not change between tries."""
    utilization: float = 0.0
    """Share of each GPU's whole memory; 0 leaves it to vLLM."""
    max_model_len: int = 0
    passed_on: tuple[str, ...] = ()
    """The user's own words, which come last and so win."""
    quantization: str = ""
    parallel: int = _USUAL_PARALLEL
    notes: tuple[str, ...] = ()
    sleeps: bool = False
    """Whether it can be put to sleep."""
    sees: bool = False
    """Whether its model takes images, and was not told to leave them."""

    def argv(self, command: Sequence[str], socket: str, part: Part | None = None) -> list[str]:
        """`part`: where this node stands, of a vLLM over several."""
        place = part_flags(part) if part is not None else []
        return [*command, "serve", self.folder, *self._named(), "--uds", socket, *place, *self._rest()]

    def words(self) -> list[str]:
        """What is the same on each node that it runs on."""
        return [*self._named(), *self._rest()]

    def _named(self) -> list[str]:
        return ["--served-model-name", *self.names]

    def _rest(self) -> list[str]:
        words = list(self.flags)
        if self.utilization:
            words += ["--gpu-memory-utilization", f"{self.utilization:g}"]
        if self.max_model_len:
            words += ["--max-model-len", str(self.max_model_len)]
        return [*words, *self.passed_on]

    def said(self, *flags: str) -> bool:
        """Whether the user's own words have one of these flags."""
        return any(_flag(word) in flags for word in self.passed_on)


def make_plan(
    options: ModelOptions,
    files: ModelFiles,
    machine: Hardware,
    *,
    folder: Path,
    names: Sequence[str],
    concurrency: int = 0,
    nodes: int = 1,
) -> Plan:
    """The first way to try.

    Args:
        nodes: over how many of them it runs, with as many GPUs on each.

    Raises:
        UsageError: flags that do not go together, or that are fcd's own.
        ModelLoadError: this machine cannot do what was asked, or an adapter is not one.
    """
    passed_on = tuple(options.engine_args)
    check_passed_on(passed_on)
    notes: list[str] = []
    flags = ["--disable-uvicorn-access-log", "--enable-prompt-tokens-details", "--enable-tokenizer-info-endpoint"]
    flags += ["--allowed-media-domains", _NO_DOMAIN]
    quantization = _quantization(options, files, machine, notes)
    for flag, value in (
        ("--tokenizer", options.tokenizer),
        ("--dtype", "" if options.dtype == "auto" else options.dtype),
        ("--quantization", quantization),
        ("--max-num-seqs", str(concurrency or "")),
    ):
        flags += [flag, value] if value else []
    flags += parallel_flags(_spread(options), nodes, passed_on)
    if options.trust_remote_code:
        flags.append("--trust-remote-code")
    sleeps = bool(machine.gpus) and nodes == 1
    flags += ["--enable-sleep-mode"] if sleeps else []
    flags += [*_parser_flags(files, passed_on), *_adapter_flags(options.lora_modules)]
    return Plan(
        folder=str(folder),
        names=tuple(names),
        adapters=dict(options.lora_modules),
        flags=tuple(flags),
        utilization=_utilization(options, machine, notes),
        max_model_len=options.max_model_len,
        passed_on=passed_on,
        quantization=quantization or files.quantized,
        parallel=concurrency or _passed_number(passed_on, "--max-num-seqs") or _USUAL_PARALLEL,
        notes=tuple(notes),
        sleeps=sleeps,
        sees=files.vision and not _blindfolded(passed_on),
    )


def _blindfolded(words: Sequence[str]) -> bool:
    """Whether the user's own words leave images out."""
    if any(_flag(word) == "--language-model-only" for word in words):
        return True
    most = _value(words, "--limit-mm-per-prompt")
    return _value(words, "--limit-mm-per-prompt.image") == "0" or bool(_NO_IMAGES.search(most))


def check_passed_on(words: Sequence[str]) -> None:
    """Raises UsageError for flags that say how fcd reaches vLLM."""
    for word in words:
        flag = _flag(word) or word.partition("=")[0]
        if flag in _OURS:
            raise UsageError(
                f"{flag} is set by fcd and cannot be passed to vLLM.",
                hint="Names: --model-names. Keys: `fcd key create`. It listens on a socket of this user alone.",
            )


def shorter(plan: Plan, tokens: int) -> Plan:
    """The same with a context that fits."""
    fits = max(1, tokens // 16 * 16 or tokens)
    was = f" instead of {plan.max_model_len}" if plan.max_model_len else " instead of the model's own"
    note = f"The context is {fits} tokens{was}: GPU memory has room for no more (--max-model-len)."
    return replace(plan, max_model_len=fits, notes=(*plan.notes, note))


def smaller(plan: Plan, free_gib: float, machine: Hardware) -> Plan | None:
    """The same with a smaller share of the GPU: nine tenths, or what is free where that is known; None: too little."""
    now = plan.utilization or _passed_share(plan.passed_on) or 0.9
    share = now * 0.9
    if free_gib and machine.gpus:
        share = min(share, 0.97 * free_gib * _GIB / min(gpu.total_bytes for gpu in machine.gpus))
    share = math.floor(share * 1000) / 1000
    if share < 0.05:
        return None
    note = f"It takes {share:g} of the GPU's memory instead of {now:g}, which was not free (--gpu-memory-utilization)."
    words = without(plan.passed_on, "--gpu-memory-utilization")
    return replace(plan, utilization=share, passed_on=words, notes=(*plan.notes, note))


def without(words: Sequence[str], flag: str) -> tuple[str, ...]:
    """The words without a flag and its value."""
    left: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif _flag(word) == flag:
            skip = "=" not in word
        else:
            left.append(word)
    return tuple(left)


def adapter_rank(folder: Path) -> int:
    """The rank of a LoRA adapter in PEFT's layout.

    Raises:
        ModelLoadError: it is none.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        ranks = [config["r"], *dict(config.get("rank_pattern") or {}).values()]
        return max(int(rank) for rank in ranks)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{folder} is no LoRA adapter: its adapter_config.json cannot be read ({error}).",
            hint="Give --lora-modules NAME=FOLDER, a folder in PEFT's layout.",
        ) from None


def _flag(word: str) -> str:
    return word.partition("=")[0].replace("_", "-") if word.startswith("--") else ""


def _spread(options: ModelOptions) -> int:
    return options.num_gpus or len([part for part in options.gpus.split(",") if part.strip()])


def _quantization(options: ModelOptions, files: ModelFiles, machine: Hardware, notes: list[str]) -> str:
    if options.quantize_with:
        return options.quantize_with
    if not options.quantization:
        return ""
    flag = f"--load-{options.quantization}"
    if files.quantized:
        notes.append(f"{flag} changes nothing: the model's files are quantized already ({files.quantized}).")
        return ""
    capability = machine.capability
    if options.quantization == "4bit":
        if capability and capability < _BITSANDBYTES:
            raise ModelLoadError(
                f"{flag}: vLLM's 4-bit weights need compute capability 7.0; this GPU has {capability:g}."
            )
        notes.append(f"{flag} is bitsandbytes' NF4 in vLLM.")
        return "bitsandbytes"
    if capability >= _FP8_FAST:
        notes.append(f"{flag} is fp8 in vLLM: weights and activations, which this GPU computes itself.")
    elif capability >= _FP8_AT_ALL:
        notes.append(f"{flag} is fp8 in vLLM: weights only, since this GPU does not compute in fp8.")
    elif capability:
        raise ModelLoadError(
            f"{flag}: vLLM's 8-bit weights need compute capability 7.5; this GPU has {capability:g}.",
            hint="Use --load-4bit, or the transformers engine (leave --engine out).",
        )
    else:
        notes.append(f"{flag} is fp8 in vLLM.")
    return "fp8"


def _utilization(options: ModelOptions, machine: Hardware, notes: list[str]) -> float:
    if not options.max_gpu_memory:
        return options.gpu_memory_utilization
    if options.gpu_memory_utilization:
        # The daemon has worked the share out from what was asked for.
        share = options.gpu_memory_utilization
        notes.append(f"--max-gpu-memory {options.max_gpu_memory} is --gpu-memory-utilization {share:g}.")
        return share
    if not machine.gpus:
        raise ModelLoadError("--max-gpu-memory needs a GPU, and none is seen here.", hint="`nvidia-smi` shows them.")
    wanted, total = parse_size(options.max_gpu_memory), min(gpu.total_bytes for gpu in machine.gpus)
    share = min(math.floor(wanted / total * 10_000) / 10_000, 0.98)
    if share <= 0:
        raise UsageError(f"--max-gpu-memory {options.max_gpu_memory} is less than vLLM can be told to take.")
    notes.append(
        f"--max-gpu-memory {options.max_gpu_memory} of {total / _GIB:.1f} GiB is --gpu-memory-utilization {share:g}."
    )
    return share


def _parser_flags(files: ModelFiles, passed_on: Sequence[str]) -> list[str]:
    found = parsers_for(files)
    given = {_flag(word) for word in passed_on}
    flags: list[str] = []
    if found.tools and not given & {"--tool-call-parser", "--enable-auto-tool-choice", "--no-enable-auto-tool-choice"}:
        flags += ["--enable-auto-tool-choice", "--tool-call-parser", found.tools]
    if found.reasoning and "--reasoning-parser" not in given:
        flags += ["--reasoning-parser", found.reasoning]
    return flags


def _adapter_flags(adapters: Mapping[str, str]) -> list[str]:
    if not adapters:
        return []
    most = max(adapter_rank(Path(folder)) for folder in adapters.values())
    allowed = next((rank for rank in _LORA_RANKS if rank >= most), None)
    if allowed is None:
        raise ModelLoadError(f"An adapter has rank {most}, and vLLM takes {_LORA_RANKS[-1]} at most.")
    modules = [json.dumps({"name": name, "path": folder}) for name, folder in adapters.items()]
    flags = ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(allowed)]
    return [*flags, "--lora-modules", *modules]


def _value(words: Sequence[str], flag: str) -> str:
    found = ""
    for place, word in enumerate(words):
        if _flag(word) == flag:
            _, equals, value = word.partition("=")
            found = value if equals else words[place + 1] if place + 1 < len(words) else ""
    return found


def _passed_number(words: Sequence[str], flag: str) -> int:
    text = _value(words, flag)
    return int(text) if text.isdecimal() else 0


def _passed_share(words: Sequence[str]) -> float:
    try:
        return float(_value(words, "--gpu-memory-utilization") or 0)
    except ValueError:
        return 0.0
