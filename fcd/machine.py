"""What this machine has, found out without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TIMEOUT_S = 10


class Gpu(NamedTuple):
    number: int
    """Its place among those that CUDA_VISIBLE_DEVICES leaves, as CUDA counts."""
    name: str
    total_bytes: int
    free_bytes: int
    uuid: str = ""


def gpus(environ: Mapping[str, str] | None = None) -> list[Gpu]:
    """NVIDIA GPUs that the driver's own tool sees and CUDA_VISIBLE_DEVICES leaves; none where there is no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = "--query-gpu=index,name,memory.total,memory.free,uuid"
    try:
        done = subprocess.run(
            [tool, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    env = os.environ if environ is None else environ
    return visible(read_gpus(done.stdout), env.get("CUDA_VISIBLE_DEVICES"))


def read_gpus(output: str) -> list[Gpu]:
    """The tool's lines of `index, name, total MiB, free MiB, uuid`; lines that say anything else are passed over."""
    return [found for line in output.splitlines() if (found := _gpu(line)) is not None]


def visible(cards: list[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that CUDA_VISIBLE_DEVICES names, by number or UUID (the beginning of one will do), in its order.

    As CUDA has it, the first name that means nothing ends the list.
    """
    if wanted is None:
        return cards
    left: list[Gpu] = []
    for word in filter(None, (part.strip() for part in wanted.split(","))):
        named = [card for card in cards if word == str(card.number) or (card.uuid and card.uuid.startswith(word))]
        if len(named) != 1:
            break
        left.append(named[0]._replace(number=len(left)))
    return left


def _gpu(line: str) -> Gpu | None:
    parts = [part.strip() for part in line.split(",")]
    try:
        return Gpu(int(parts[0]), parts[1], int(parts[2]) * 2**20, int(parts[3]) * 2**20, parts[4])
    except (ValueError, IndexError):
        return None


def has_metal() -> bool:
    """Whether this is a Mac whose GPU torch can use."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; elsewhere models run in float32 on it."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return has_metal()
    words = set(flags.split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def loaded_dtype(device: str, dtype: str, native: str) -> str:
    """The type of a model's floats here: what was asked for, else what suits the machine; empty is the file's own."""
    if dtype not in ("", "auto"):
        return dtype
    on_cpu = device == "cpu" or (device in ("", "auto") and not gpus() and not has_metal())
    return "float32" if on_cpu and native != "float32" and not cpu_has_bf16() else ""
