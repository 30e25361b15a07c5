"""Why vLLM ended, from what it wrote: one sentence of cause, the next step, and whether another try can help. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from daemon.worker.vllm.stages import plain

Remedy = Literal["", "shorter", "less", "other_port"]
"""What another start should do otherwise: a shorter context, a smaller share of the GPU, nothing but try again."""


@dataclass(frozen=True)
class Failure:
    """A start, or a life, that ended."""

    cause: str
    hint: str = ""
    remedy: Remedy = ""
    amount: float = 0.0
    """Of `shorter`: how many tokens fit; of `less`: the share that is free."""

    def __str__(self) -> str:
        return f"{self.cause} {self.hint}".strip()


@dataclass(frozen=True)
class _Sign:
    pattern: re.Pattern[str]
    cause: str
    hint: str = ""
    remedy: Remedy = ""
    amount: str = ""

    def failure(self, found: re.Match[str]) -> Failure:
        named = {name: (value or "").strip().strip("'\"`").rstrip(".") for name, value in found.groupdict().items()}
        amount = float(named.get(self.amount) or 0) if self.amount else 0.0
        return Failure(self.cause.format(**named), self.hint.format(**named), self.remedy, amount)


def _sign(pattern: str, cause: str, hint: str = "", remedy: Remedy = "", amount: str = "") -> _Sign:
    return _Sign(re.compile(pattern, re.IGNORECASE), cause, hint, remedy, amount)


_SMALLER = (
    "Give a smaller --max-model-len, --num-gpus 2, or --load-8bit, or free the GPU: `fcd ps` shows who has memory."
)
_SIGNS: Final = (
    _sign(
        r"error: (?P<what>(?:unrecognized arguments:|argument|ambiguous option).{0,200})",
        "vLLM refused its command line: {what}.",
        "`vllm serve --help=all` lists its flags; what stands after `--` goes to it as it is.",
    ),
    _sign(
        r"max seq len \((?P<asked>\d+)\).*?\((?P<need>[\d.]+) GiB KV cache is needed.*?memory \((?P<have>[\d.]+) GiB\)"
        r".*?estimated maximum model length is (?P<fits>\d+)",
        "The KV cache of one request of {asked} tokens takes {need} GiB, and {have} GiB are left: {fits} tokens fit.",
        "Give --max-model-len {fits}, a larger --gpu-memory-utilization, or --num-gpus 2.",
        "shorter",
        "fits",
    ),
    _sign(
        r"max seq len \((?P<asked>\d+)\).*?\((?P<need>[\d.]+) GiB KV cache is needed.*?memory \((?P<have>[\d.]+) GiB\)",
        "The KV cache of one request of {asked} tokens takes {need} GiB, and {have} GiB are left.",
        _SMALLER,
    ),
    _sign(
        r"No available memory for the cache blocks",
        "The weights leave no GPU memory for the KV cache (out of memory).",
        "Give a larger --gpu-memory-utilization or --max-gpu-memory, --load-8bit, or --num-gpus 2.",
    ),
    _sign(
        r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than desired GPU "
        r"memory utilization \((?P<share>[\d.]+), (?P<want>[\d.]+) GiB\)",
        "It was to take {want} GiB of the GPU ({share} of it), and {free} of {total} GiB are free (out of memory).",
        "Free the GPU (`fcd ps` shows what runs) or give a smaller --gpu-memory-utilization.",
        "less",
        "free",
    ),
    _sign(
        r"(?:torch\.\w*OutOfMemoryError|CUDA out of memory|not enough GPU memory|CUDA error: out of memory)",
        "The GPU ran out of memory.",
        _SMALLER,
        "less",
    ),
    _sign(
        r"Cannot allocate memory|DefaultCPUAllocator: .*allocate|\bMemoryError\b",
        "This machine ran out of RAM (cannot allocate memory).",
        "Free some, or give a smaller model.",
    ),
    _sign(
        r"(?:Errno 98\]|EADDRINUSE|Address already in use(?!\. Retrying))",
        "A port that vLLM wants is taken by another program.",
        "It is tried again with another; `ss -ltnp` shows who has which.",
        "other_port",
    ),
    _sign(
        r"(?:NVIDIA driver on your system is too old|CUDA driver version is insufficient)[^.]*",
        "The NVIDIA driver is too old for this vLLM.",
        "Update the driver, or install an older vLLM: `fcd engine install vllm --version V`.",
    ),
    _sign(
        r"no kernel image is available for execution",
        "This vLLM was not built for this GPU.",
        "Use the transformers engine (leave --engine out), or another vLLM: `fcd engine install vllm --version V`.",
    ),
    _sign(
        r"(?:Found no NVIDIA driver|No CUDA GPUs are available|Failed to infer device type|no NVIDIA GPU)",
        "vLLM finds no GPU here.",
        "`nvidia-smi` shows what the driver sees. Without a GPU, leave --engine out.",
    ),
    _sign(
        r"(?P<file>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "The library {file} is missing.",
        "Install it, or vLLM again: `fcd engine install vllm`.",
    ),
    _sign(
        r"ModuleNotFoundError: No module named '(?P<module>[^']+)'",
        "The Python package '{module}' is missing in vLLM's environment.",
        "Install vLLM again: `fcd engine install vllm`.",
    ),
    _sign(
        r"(?:Failed to load the tokenizer|Can't load tokenizer for|Tokenizer class \S+ does not exist"
        r"|Couldn't instantiate the backend tokenizer|tokenizer\S* does not exist)[^.]*",
        "The model's tokenizer cannot be loaded.",
        "Give another with --tokenizer PATH_OR_REPO; --trust-remote-code if the model brings its own code.",
    ),
    _sign(
        r"requires you to execute the configuration file|--trust-remote-code` flag|contains custom code which must be",
        "The model brings Python code of its own, which is not run.",
        "If you trust its authors, give --trust-remote-code.",
    ),
    _sign(
        r"(?:Model architectures? (?P<arch>\[[^\]]*\]|\S+) (?:are|is) not supported)",
        "vLLM does not know the architecture {arch}.",
        "Use the transformers engine (leave --engine out), or a newer vLLM: `fcd engine install vllm`.",
    ),
    _sign(
        r"(?:was supported in vLLM until|no vLLM implementation and the Transformers implementation is not compatible"
        r"|Transformers does not recognize this architecture|does not recognize this architecture)[^.]*",
        "vLLM cannot run this model's architecture.",
        "Use the transformers engine (leave --engine out), or a newer vLLM: `fcd engine install vllm`.",
    ),
    _sign(
        r"(?:gated repo|Access to model \S+ is restricted|401 Client Error|GatedRepoError)[^.]*",
        "The hub gives this model only to those who asked for it.",
        "Accept its licence on its page, then `hf auth login`, or set HF_TOKEN.",
    ),
    _sign(
        r"(?:Repository Not Found|RepositoryNotFoundError|is not a local folder and is not a valid model identifier)",
        "There is no such model on the hub, or it is private.",
        "Check its name, or give a folder.",
    ),
    _sign(
        r"(?:No files? found .*safetensors|Cannot find any model weights)[^.]*",
        "The model's folder holds no weights that vLLM reads.",
        "Give a complete folder in Hugging Face's layout.",
    ),
    _sign(
        r"LoRA rank (?P<rank>\d+) is greater than max_lora_rank (?P<most>\d+)",
        "An adapter has rank {rank}, and vLLM was told at most {most}.",
        "Give `-- --max-lora-rank {rank}`.",
    ),
    _sign(
        r"(?:Total number of attention heads|divisible by tensor parallel size|World size \(\d+\) is larger)[^.]*",
        "The model cannot be split over so many GPUs.",
        "Give another --num-gpus: its heads must divide by it, and so many GPUs must be there.",
    ),
    _sign(
        r"invalid (?P<kind>tool call|reasoning) parser: (?P<name>\S+)",
        "This vLLM has no {kind} parser '{name}'.",
        "Name one of its own after `--`, or none.",
    ),
    _sign(
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len",
        "A context of {asked} tokens is more than the model was made for.",
        "Give a smaller --max-model-len.",
    ),
    _sign(r"EngineDeadError|ENGINE_CORE_DEAD|Engine core proc .* died", "vLLM's engine process died."),
)
_ERROR: Final = re.compile(r"^(?:\w+\.)*(?P<kind>\w*(?:Error|Exception)): (?P<text>.+)")
_DULL: Final = ("Engine core initialization failed", "EngineDeadError", "See root cause above", "CancelledError")
_LONGEST = 400


def explain(lines: Sequence[str], ended: str) -> Failure:
    """The cause in what it wrote last.

    Args:
        lines: the log's last lines, oldest first.
        ended: how its process ended, such as `exit code 1`.
    """
    texts = [plain(line) for line in lines]
    whole = "\n".join(texts)
    joined = whole.replace("\n", " ")
    for sign in _SIGNS:
        found = sign.pattern.search(joined)
        if found is not None:
            return sign.failure(found)
    errors = [found for text in texts if (found := _ERROR.match(text)) is not None]
    telling = [found for found in errors if not any(dull in found[0] for dull in _DULL)]
    if telling:
        return Failure(f"vLLM ended with {ended}: {telling[-1][0][:_LONGEST]}.".replace("..", "."))
    last = "\n".join(text for text in texts if text)[-_LONGEST:]
    return Failure(f"vLLM ended with {ended}." + (f" Its last lines:\n{last}" if last else ""))
