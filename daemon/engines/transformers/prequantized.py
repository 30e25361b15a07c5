"""Checkpoints that were quantised before: their own configuration says how, and a library of its own computes them.

transformers puts that library's layers in; neither our quantiser nor the lean forward touches them. What is checked
here, before any weights are read, is whether the library is there.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fcd.errors import ModelLoadError


@dataclass(frozen=True)
class Method:
    """A way of quantising, as its checkpoints call it."""

    shown: str
    modules: tuple[str, ...] = ()
    """What must be importable."""
    install: str = ""
    """What brings it."""
    on_cpu: bool = True
    """False where only a GPU can compute it."""


_METHODS = {
    "awq": Method("AWQ", ("gptqmodel",), "pip install gptqmodel"),
    "gptq": Method("GPTQ", ("optimum", "gptqmodel"), "pip install optimum gptqmodel"),
    "bitsandbytes": Method("bitsandbytes", ("bitsandbytes",), "pip install bitsandbytes"),
    "compressed-tensors": Method("compressed-tensors", ("compressed_tensors",), "pip install compressed-tensors"),
    "torchao": Method("torchao", ("torchao",), "pip install torchao"),
    "quanto": Method("quanto", ("optimum.quanto",), "pip install optimum-quanto"),
    "hqq": Method("HQQ", ("hqq",), "pip install hqq"),
    "auto-round": Method("AutoRound", ("auto_round",), "pip install auto-round"),
    "aqlm": Method("AQLM", ("aqlm",), "pip install 'aqlm[cpu,gpu]'"),
    "quark": Method("Quark", ("quark",), "pip install amd-quark"),
    "vptq": Method("VPTQ", ("vptq",), "pip install vptq", on_cpu=False),
    "spqr": Method("SpQR", ("spqr_quant",), "pip install 'spqr_quant[gpu]'", on_cpu=False),
    "higgs": Method("HIGGS", ("flute",), "pip install flute-kernel", on_cpu=False),
    "eetq": Method("EETQ", ("kernels",), "pip install kernels", on_cpu=False),
    "fbgemm_fp8": Method("FBGEMM fp8", ("fbgemm_gpu",), "pip install fbgemm-gpu", on_cpu=False),
    "fp8": Method("fp8"),
    "mxfp4": Method("MXFP4"),
    "bitnet": Method("BitNet"),
}
"""Those whose library is known; any other is left to transformers, which says itself what it lacks."""


def stored_method(config: Any) -> str:
    """How a model's weights are quantised in its files, empty when they are not; `fcd_lowbit` is ours, made at load."""
    stored = getattr(config, "quantization_config", None)
    if not stored:
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        stored = getattr(text, "quantization_config", None)
    if not stored:
        return ""
    method = stored.get("quant_method", "") if isinstance(stored, dict) else getattr(stored, "quant_method", "")
    if not method and isinstance(stored, dict) and (stored.get("load_in_4bit") or stored.get("load_in_8bit")):
        return "bitsandbytes"
    return str(getattr(method, "value", method)) or "unknown"


def check_prequantized(
    config: Any, device: str, quantization: str, importable: Callable[[str], bool] | None = None
) -> str:
    """The method of a checkpoint that is quantised, empty for others.

    Args:
        device: the kind of device that it will be on.
        quantization: what was asked for at load.
        importable: whether a library is there.

    Raises:
        ModelLoadError: it was to be quantised once more, its library is not installed, or it needs a GPU.
    """
    method = stored_method(config)
    if not method:
        return ""
    if method not in _METHODS and not _known_to_transformers(method):
        raise ModelLoadError(
            f"The model's weights are quantised in a way that is not known here ('{method}').",
            hint="Use another version of the model, or a newer release of fcd.",
        )
    known = _METHODS.get(method, Method(method))
    if quantization:
        raise ModelLoadError(
            f"The model is quantised already ({known.shown}), so it cannot be loaded in {quantization}.",
            hint="Load it without --load-8bit and --load-4bit.",
        )
    if not known.on_cpu and device != "cuda":
        raise ModelLoadError(
            f"The model's weights are quantised with {known.shown}, which only a CUDA GPU can compute.",
            hint="Use --device cuda where there is one, or another version of the model.",
        )
    there = importable or _importable
    missing = [name for name in known.modules if not there(name)]
    if missing:
        raise ModelLoadError(
            f"The model's weights are quantised with {known.shown}, and the library for it is not installed"
            f" ({', '.join(missing)}).",
            hint=f"Install it where fcd is: {known.install}",
        )
    if method == "bitsandbytes":
        # It says at every product that it rounds its input.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    return method


def _known_to_transformers(method: str) -> bool:
    """It passes over a method that it does not know, and reads the weights as they are."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    return method in AUTO_QUANTIZER_MAPPING


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
