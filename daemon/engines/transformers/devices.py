"""Which device and which number format a model gets when nobody says."""

from __future__ import annotations

import torch

from fcd.errors import ModelLoadError

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "half": torch.float16,
}


def choose_device(wanted: str) -> torch.device:
    """`auto` or empty: CUDA, else Metal, else the CPU.

    Raises:
        ModelLoadError: the named device is not on this machine.
    """
    if wanted in {"", "auto"}:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = wanted.split(":", 1)[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise ModelLoadError(f"The device '{wanted}' is not known here.", hint="Use --device auto, cpu, cuda or mps.")
    if not there[kind]:
        raise ModelLoadError(
            f"The device '{wanted}' was asked for, but PyTorch sees none on this machine.",
            hint="Use --device cpu, or install a PyTorch build and driver for it.",
        )
    return torch.device(wanted)


def choose_dtype(
    wanted: str,
    native: torch.dtype | None,
    device: torch.device,
) -> torch.dtype:
    """The model's own format where the device is good at it; on a CPU bf16 where there are instructions for it.

    What a CPU computes 16-bit weights in that are not quantised is measured instead, see number_format.

    Args:
        wanted: `--dtype`; empty or `auto` leaves it to this function.
        native: what the checkpoint holds.

    Raises:
        ModelLoadError: the name is not a format.
    """
    if wanted not in {"", "auto"}:
        if wanted not in DTYPES:
            raise ModelLoadError(
                f"The dtype '{wanted}' is not known.", hint="Use --dtype auto, float32, bfloat16 or float16."
            )
        return DTYPES[wanted]
    native = native or torch.float32
    if native == torch.float32:
        return native
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bf16() else torch.float32
    if device.type == "cuda" and native == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        return torch.float16
    return native


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively: elsewhere it is emulated and slower than fp32."""
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is None:
        return False
    features = probe()
    return any(bool(features.get(name)) for name in ("avx512_bf16", "amx_bf16", "amx_tile", "bf16"))
