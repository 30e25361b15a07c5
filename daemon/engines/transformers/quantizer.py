"""Our 8-bit and 4-bit loading, as a quantizer of transformers: each tensor is quantised as it is read.

So the whole model never stands in memory in its own format, and every family's own loading rules still apply.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import torch
from torch import nn

from daemon.engines.transformers.experts import PARTS, LowBitExperts, is_stacked
from daemon.engines.transformers.lowbit import (
    GROUP,
    WHOLE_INPUTS,
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    LowBit,
    measure_kernels,
)
from fcd.errors import ModelLoadError

METHOD = "fcd_lowbit"


def quantization_config(bits: int, device: torch.device, dtype: torch.dtype) -> Any:
    """What to give from_pretrained for 8 or 4 bits: bitsandbytes on CUDA, ours elsewhere."""
    if device.type == "cuda":
        from transformers import BitsAndBytesConfig

        # It says at every product of every step that bf16 is cast for it.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        if bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if bits == 4 and device.type != "cpu":
        raise ModelLoadError("4-bit weights are for CPUs and CUDA here, not Metal.", hint="Use --load-8bit.")
    return _classes()(bits)


def bits_of(quantization: str) -> int:
    """8 or 4 for `8bit` and `4bit`; 0 for none.

    Raises:
        ModelLoadError: another word.
    """
    if quantization in {"", "none"}:
        return 0
    if quantization not in {"8bit", "4bit"}:
        raise ModelLoadError(f"The quantization '{quantization}' is not known.", hint="Use 8bit or 4bit.")
    return int(quantization[0])


_config_class: Any = None


def _classes() -> Any:
    """Register our method with transformers once, and give its configuration class."""
    global _config_class
    if _config_class is not None:
        return _config_class
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers import register_quantization_config, register_quantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import get_module_from_name
    from transformers.utils.quantization_config import QuantizationConfigMixin

    class Quantize(ConversionOps):  # type: ignore[misc]
        def convert(
            self, input_dict: dict[str, Any], model: Any = None, missing_keys: Any = None, **kwargs: Any
        ) -> dict[str, torch.Tensor]:
            for name, value in input_dict.items():
                module, part = get_module_from_name(model, name)
                tensor = value[0] if isinstance(value, list) else value
                if isinstance(module, LowBitExperts):
                    module.take(part, tensor)
                else:
                    module.take(tensor)
                # Both flags: some families' weight initialisation reaches into their children's tensors.
                module._is_hf_initialized = True
                getattr(module, part)._is_hf_initialized = True
                if missing_keys is not None:
                    missing_keys.discard(name)
            return {}

    @register_quantization_config(METHOD)
    class LowBitConfig(QuantizationConfigMixin):  # type: ignore[misc]
        def __init__(self, bits: int = 8, **kwargs: Any) -> None:
            self.quant_method = METHOD
            self.bits = bits

    @register_quantizer(METHOD)
    class LowBitQuantizer(HfQuantizer):  # type: ignore[misc]
        requires_calibration: ClassVar[bool] = False

        def param_needs_quantization(self, model: Any, param_name: str, **kwargs: Any) -> bool:
            module, name = get_module_from_name(model, param_name)
            return (isinstance(module, LowBit) and name == "weight") or (
                isinstance(module, LowBitExperts) and name in PARTS
            )

        def get_quantize_ops(self) -> Any:
            return Quantize()

        def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
            replace_modules(model, self.quantization_config.bits)
            return model

        def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
            finish(model)
            return model

        def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    _config_class = LowBitConfig
    return LowBitConfig


def replace_modules(model: Any, bits: int) -> None:
    """Put low-bit modules in the place of the linear layers and the token embedding of a model on `meta`.

    The output layer and the embedding are 8-bit also when the rest is 4-bit: they decide which token wins. Layers whose
    shape has no 4-bit form are 8-bit too. Mixture-of-experts routers, and what state-space models multiply by hand, are
    small and stay as they are.

    T5 asks that its `wo` layers stay in fp32: their outputs overflow fp16. Their weights lose little by 8 bits, and
    they never get fewer; what goes in has outliers, so it is not rounded to int8 (`whole_inputs`); and in fp16 models
    they answer in fp32.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    tied = {key.removesuffix(".weight") for pair in _tied_keys(model).items() for key in pair}
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, module in list(model.named_modules()):
        is_wo = name.endswith(".wo") and "wo" in kept and type(module) is nn.Linear
        if (any(part in kept for part in name.split(".")) and not is_wo) or _keeps_format(name):
            continue
        with torch.device("meta"):
            if type(module) in {nn.Linear, Conv1D} or type(module).__name__ == "FalconLinear":
                new: nn.Module = _linear(module, 8 if module is head or is_wo else bits, whole_inputs=is_wo)
            elif is_stacked(module):
                new = LowBitExperts(module, bits)
            elif isinstance(module, nn.Embedding) and name in tied:
                new = Int8Embedding(
                    module.num_embeddings,
                    module.embedding_dim,
                    dtype=module.weight.dtype,
                    factor=getattr(module, "scalar_embed_scale", None),
                )
            else:
                continue
        model.set_submodule(name, new)


def _tied_keys(model: Any) -> dict[str, str]:
    """Names of parameters that share one tensor, such as the output layer's and the embedding's."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _keeps_format(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in {"gate", "router", "dt_proj"}


def _linear(module: Any, bits: int, *, whole_inputs: bool = False) -> nn.Module:
    transposed = not isinstance(module, nn.Linear)
    inputs, outputs = (module.weight.shape[0], module.nf) if transposed else (module.in_features, module.out_features)
    fits = inputs % GROUP == 0 and outputs % 16 == 0
    kind = Int4Linear if bits == 4 and fits else Int8Linear
    dtype = module.weight.dtype
    if whole_inputs and dtype == torch.float16:
        dtype = torch.float32
    layer = kind(inputs, outputs, bias=module.bias is not None, dtype=dtype, transposed=transposed)
    if isinstance(layer, Int8Linear):
        layer.whole_inputs = whole_inputs
    return layer


def finish(model: Any) -> None:
    """Let tied layers share one weight and its scale, and choose the kernels by measuring.

    Raises:
        ModelLoadError: a layer got no weights.
    """
    for pair in _tied_keys(model).items():
        a, b = (model.get_submodule(key.rsplit(".", 1)[0]) for key in pair)
        given = a if getattr(a, "loaded", False) else b
        for module in (a, b):
            if isinstance(module, LowBit) and isinstance(given, LowBit) and module is not given:
                module.hold(given.codes, given.scale)
    for name, module in model.named_modules():
        if isinstance(module, LowBit | LowBitExperts) and not module.loaded:
            raise ModelLoadError(f"The checkpoint has no weights for '{name}'.", hint="Download the model again.")
    layers = [m for m in model.modules() if isinstance(m, Int8Linear)]
    if not layers:
        return
    typical = sorted(layers, key=lambda m: m.codes.numel())[len(layers) // 2]
    shape = (typical.out_features, typical.in_features, typical.dtype, typical.codes.device)
    kernels = measure_kernels(*shape)
    whole = measure_kernels(*shape, WHOLE_INPUTS) if any(layer.whole_inputs for layer in layers) else kernels
    for layer in layers:
        layer.kernels = whole if layer.whole_inputs else kernels
