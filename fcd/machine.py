"""What this machine has, found out without importing torch."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from fcd.nvml import NoDriver, Nvml, Reading

_TIMEOUT_S = 10
_AMD = "0x1002"
PACKED_HALF = "float32 (16-bit weights)"
"""Weights of 16 bits that stay so in memory, packed, while everything is computed in fp32."""
_HALVES = frozenset({"bfloat16", "bf16", "float16", "fp16", "half"})
_DRM = Path("/sys/class/drm")


class Gpu(NamedTuple):
    number: int
    """Its place among those that CUDA_VISIBLE_DEVICES leaves, as CUDA counts."""
    name: str
    total_bytes: int
    free_bytes: int
    uuid: str = ""


class GpuProbe:
    """Asks for the GPUs again and again: the driver through NVML, kept open, or its tool where that cannot be had.

    `reading` is all that NVML said last, and `note` why there are no GPUs.
    """

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml or Nvml()
        self.reading: Reading | None = None
        self.note = ""
        self._one_at_a_time = threading.Lock()

    def __call__(self) -> list[Gpu]:
        """Every GPU that CUDA_VISIBLE_DEVICES leaves. Blocks; may be called from several threads."""
        with self._one_at_a_time:
            return self._look()

    def _look(self) -> list[Gpu]:
        try:
            self.reading = self._nvml.read()
        except NoDriver as error:
            self.reading = None
            found = _ask_tool()
            self.note = "" if found else no_gpu_note(str(error))
            return found
        cards = [
            Gpu(number, card.name, card.total_bytes, card.free_bytes, card.uuid)
            for number, card in enumerate(self.reading.cards)
        ]
        left = visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))
        self.note = "" if left else "CUDA_VISIBLE_DEVICES leaves no GPU" if cards else "no NVIDIA GPU"
        return left

    def close(self) -> None:
        self._nvml.close()


def gpus() -> list[Gpu]:
    """NVIDIA GPUs that the driver sees and CUDA_VISIBLE_DEVICES leaves; none where there is no driver."""
    probe = GpuProbe()
    try:
        return probe()
    finally:
        probe.close()


def _ask_tool() -> list[Gpu]:
    """What the driver's own tool sees: a container may have the tool and hide the library."""
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
    return visible(read_gpus(done.stdout), os.environ.get("CUDA_VISIBLE_DEVICES"))


def no_gpu_note(said: str) -> str:
    """Why there are no NVIDIA GPUs, and which others there are."""
    if has_metal():
        return "no NVIDIA driver; Apple's GPU shares the RAM (Metal)"
    if has_amd():
        return f"{said}; there is an AMD GPU, which is neither measured nor given to models here"
    return said


def has_amd(drm: Path = _DRM) -> bool:
    """Whether the kernel shows an AMD GPU."""
    for vendor in sorted(drm.glob("card*/device/vendor")):
        try:
            if vendor.read_text(encoding="ascii").strip() == _AMD:
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


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
    words = _cpu_words()
    return has_metal() if words is None else bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


def packs_half() -> bool:
    """Whether 16-bit weights are kept packed on this CPU: the engine compiles its products for them, and bfloat16 is
    the faster one where there are instructions for it."""
    return compiles_kernels() and not cpu_has_bf16()


def compiles_kernels() -> bool:
    """Whether the engine can compile kernels of its own here: on Linux, for processors that widen 16-bit numbers and
    multiply 8-bit ones by themselves. For others the compiler would end the process."""
    if sys.platform != "linux" or importlib.util.find_spec("numba") is None:
        return False
    kind = platform.machine().lower()
    if kind in ("x86_64", "amd64"):
        return (_cpu_words() or set()) >= {"avx2", "f16c", "fma"}
    return kind in ("aarch64", "arm64")


def keeps_packed(dtype: str, native: str) -> bool:
    """Whether a CPU keeps a model's weights packed.

    Args:
        dtype: what they are loaded as (see `loaded_dtype`), native: what the files hold.
    """
    return dtype == PACKED_HALF or (dtype in _HALVES and native in _HALVES and packs_half())


def _cpu_words() -> set[str] | None:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return None


def fp32_fits(weights: int, available: int) -> bool:
    """Whether weights of 16 bits may become 32 in the memory that is free: a third of it is left to everything else.

    Where they may not, models run in bfloat16 though it may be slower.
    """
    return 2 * weights <= 0.7 * available


def loaded_dtype(device: str, dtype: str, native: str, quantization: str = "") -> str:
    """The type of a model's floats here: what was asked for, else what suits the machine; empty is the file's own."""
    if dtype not in ("", "auto"):
        return dtype
    on_cpu = device == "cpu" or (device in ("", "auto") and not gpus() and not has_metal())
    return dtype_on_cpu(native, quantization) if on_cpu else ""


def dtype_on_cpu(native: str, quantization: str = "") -> str:
    """The type of a model's floats on this CPU when nobody says; empty is the file's own."""
    if native == "float32" or cpu_has_bf16():
        return ""
    return PACKED_HALF if native in _HALVES and not quantization and packs_half() else "float32"
