"""Our packed 16-bit, 8-bit and 4-bit loading, as a quantizer of transformers: each tensor is packed as it is read.

So the whole model never stands in memory in its own format, and every family's own loading rules still apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from daemon.engines.transformers.experts import PARTS, LowBitExperts, is_stacked
from daemon.engines.transformers.half import HalfEmbedding, HalfLinear
from daemon.engines.transformers.lowbit import (
    GROUP,
    WHOLE_INPUTS,
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    LowBit,
    LowBitLinear,
    measure_kernels,
    panels_are_faster,
)
from fcd.errors import ModelLoadError

METHOD = "fcd_lowbit"
T = TypeVar("T")
log = logging.getLogger("fcd.engine")


def quantization_config(bits: int, device: torch.device, dtype: torch.dtype, stored: torch.dtype | None = None) -> Any:
    """What to give from_pretrained for 8 or 4 bits: bitsandbytes on CUDA, ours elsewhere.

    Args:
        dtype: of the activations.
        stored: what the checkpoint holds; None is the same.
    """
    if device.type == "cuda":
        from transformers import BitsAndBytesConfig

        # It says at every product of every step that bf16 is cast for it.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        if bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if bits == 4 and device.type != "cpu":
        raise ModelLoadError("4-bit weights are for CPUs and CUDA here, not Metal.", hint="Use --load-8bit.")
    return _classes()(bits, stored=str(stored or dtype).removeprefix("torch."), compiled=device.type == "cpu")


def half_config(stored: torch.dtype) -> Any:
    """What to give from_pretrained for packed 16-bit weights on a CPU; the checkpoint holds `stored`."""
    return _classes()(16, stored=str(stored).removeprefix("torch."))


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
                    _mark(module, part)
                elif not module.loaded:
                    for each in _take(module, tensor):
                        _mark(each, "weight")
                if missing_keys is not None:
                    missing_keys.discard(name)
            return {}

    @register_quantization_config(METHOD)
    class LowBitConfig(QuantizationConfigMixin):  # type: ignore[misc]
        def __init__(self, bits: int = 8, stored: str = "bfloat16", compiled: bool = False, **kwargs: Any) -> None:
            self.quant_method = METHOD
            self.bits = bits
            self.stored = stored
            self.compiled = compiled

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
            settings = self.quantization_config
            replace_modules(model, settings.bits, getattr(torch, settings.stored), compiled=settings.compiled)
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


def replace_modules(model: Any, bits: int, stored: torch.dtype = torch.bfloat16, *, compiled: bool = False) -> None:
    """Put low-bit modules in the place of the linear layers and the token embedding of a model on `meta`.

    The output layer and the embedding are 8-bit also when the rest is 4-bit: they decide which token wins. Layers whose
    shape has no 4-bit form are 8-bit too. Mixture-of-experts routers, and what state-space models multiply by hand, are
    small and stay as they are.

    T5 asks that its `wo` layers stay in fp32: their outputs overflow fp16, and so they do beside 16-bit weights.
    Their weights lose little by 8 bits, and they never get fewer; what goes in has outliers, so it is not rounded to
    int8 (`whole_inputs`; the compiled products' 16 bits are enough); and in fp16 models they answer in fp32.

    Args:
        bits: 16, 8 or 4.
        stored: the checkpoint's format, which embeddings keep, except 8-bit ones that are the output layer too.
        compiled: 8-bit layers may be packed for the compiled products.
    """
    head = model.get_output_embeddings()
    tied = {
        key.removesuffix(".weight") for pair in _tied_keys(model).items() for key in pair if key.endswith(".weight")
    }
    tables = {name for name in tied if isinstance(model.get_submodule(name), nn.Embedding)}
    if not all(_is_plain_table(model.get_submodule(name)) for name in tables):
        # They share one tensor: all of them are replaced or none.
        tables, left = set(), tied
    else:
        left = set()
    if bits == 16:
        tables |= {name for name, module in model.named_modules() if module is model.get_input_embeddings()} - left
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    packs = compiled and bits < 16 and _packs(model)
    if packs:
        log.info("8-bit weights are packed for the compiled products")
    make = partial(_linear, stored=stored, packs=packs)
    for name, module in list(model.named_modules()):
        is_wo = name.endswith(".wo") and "wo" in kept and type(module) is nn.Linear
        if name in left or _keeps_format(name) or (_is_kept(name, kept) and not (is_wo and bits < 16)):
            continue
        with torch.device("meta"):
            if _is_linear(module):
                new: nn.Module = _low(module, make, 8 if bits < 16 and (module is head or is_wo) else bits, is_wo)
            elif is_stacked(module):
                new = LowBitExperts(module, partial(_expert, make, bits))
            elif name in tables and _is_plain_table(module):
                new = _table(module, bits, stored)
            elif module is model.get_input_embeddings() and _is_plain_table(module):
                new = _table(module, 16, stored)
            else:
                continue
        model.set_submodule(name, new)
    _set_partners(model)


def _is_linear(module: Any) -> bool:
    from transformers.pytorch_utils import Conv1D

    return type(module) in {nn.Linear, Conv1D} or type(module).__name__ == "FalconLinear"


def _is_kept(name: str, kept: set[str]) -> bool:
    return any(part in kept for part in name.split("."))


def _is_plain_table(module: Any) -> bool:
    """Whether an embedding looks up rows and does no more, except to multiply them by one number."""
    scaled = isinstance(_table_factor(module), float)
    return type(module) is nn.Embedding or (isinstance(module, nn.Embedding) and scaled)


def _table_factor(module: Any) -> float | None:
    """What an embedding multiplies its rows by, where its class says so (Gemma's, BART's)."""
    found = getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", None))
    return float(found) if isinstance(found, int | float) else None


def _table(module: Any, bits: int, stored: torch.dtype) -> LowBit:
    count, dim, dtype = module.num_embeddings, module.embedding_dim, module.weight.dtype
    factor = _table_factor(module)
    if bits == 16:
        return HalfEmbedding(count, dim, dtype=dtype, factor=factor, stored=stored)
    return Int8Embedding(count, dim, dtype=dtype, factor=factor)


def _set_partners(model: Any) -> None:
    """Let layers that share a weight know of each other."""
    for pair in _tied_keys(model).items():
        a, b = (model.get_submodule(key.rsplit(".", 1)[0]) for key in pair)
        if isinstance(a, LowBit) and isinstance(b, LowBit) and a is not b:
            a.partners.append(b)
            b.partners.append(a)


def _take(module: LowBit, weight: torch.Tensor) -> list[LowBit]:
    """Give a weight to a layer, and to those that share it where they can have the same memory; gives all of them."""
    sharing = [module]
    for each in sharing:
        sharing += [partner for partner in each.partners if partner not in sharing]
    linear = next((each for each in sharing if isinstance(each, LowBitLinear) and each.packs), None)
    if linear is not None:
        linear.take(weight)
        assert linear.panels is not None
        for each in sharing:
            if each is not linear:
                each.hold_panels(linear.panels)
        return sharing
    module.take(weight)
    if not isinstance(module, HalfEmbedding):
        return [module]
    taken: list[LowBit] = []
    for each in sharing:
        if isinstance(each, HalfEmbedding):
            each.take_table(module.table)
            taken.append(each)
    return taken


def _mark(module: Any, part: str) -> None:
    """Tell transformers that a weight has its values: some families' initialisation reaches into their children's."""
    module._is_hf_initialized = True
    getattr(module, part)._is_hf_initialized = True


def _tied_keys(model: Any) -> dict[str, str]:
    """Names of parameters that share one tensor, such as the output layer's and the embedding's."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _keeps_format(name: str) -> bool:
    # What sees images is a small part of a model, and its code may multiply by its weights itself.
    sees = any(part.startswith(("vision", "visual")) for part in name.split("."))
    return sees or name.rsplit(".", 1)[-1] in {"gate", "router", "dt_proj"}


def _linear(
    inputs: int,
    outputs: int,
    bits: int,
    *,
    bias: bool,
    dtype: torch.dtype,
    transposed: bool,
    stored: torch.dtype,
    packs: bool,
) -> LowBitLinear:
    if bits == 16:
        return HalfLinear(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed, stored=stored)
    if bits == 4 and inputs % GROUP == 0 and outputs % 16 == 0:
        return Int4Linear(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed)
    return Int8Linear(inputs, outputs, bias=bias, dtype=dtype, transposed=transposed, packs=packs)


def _low(module: Any, make: Callable[..., LowBitLinear], bits: int, whole_inputs: bool) -> LowBitLinear:
    """What takes the place of a linear layer."""
    inputs, outputs = _shape(module)
    dtype = module.weight.dtype
    if whole_inputs and dtype == torch.float16:
        dtype = torch.float32
    transposed = not isinstance(module, nn.Linear)
    layer = make(inputs, outputs, bits, bias=module.bias is not None, dtype=dtype, transposed=transposed)
    if isinstance(layer, Int8Linear):
        layer.whole_inputs = whole_inputs
    return layer


def _expert(
    make: Callable[..., LowBitLinear], bits: int, inputs: int, outputs: int, dtype: torch.dtype, transposed: bool
) -> LowBitLinear:
    return make(inputs, outputs, bits, bias=False, dtype=dtype, transposed=transposed)


def _shape(module: Any) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    return module.weight.shape[0], module.nf


def _packs(model: Any) -> bool:
    """Whether the compiled products are the faster ones for a model's layers, measured on one of them."""
    shapes = [_shape(module) for module in model.modules() if _is_linear(module)]
    if not shapes:
        return False
    inputs, outputs = _typical(shapes, lambda shape: shape[0] * shape[1])
    # The model is being made on `meta`.
    with torch.device("cpu"):
        return panels_are_faster(outputs, inputs)


def finish(model: Any) -> None:
    """Let tied layers share one weight and its scale, and choose the kernels by measuring.

    Raises:
        ModelLoadError: a layer got no weights.
    """
    for pair in _tied_keys(model).items():
        a, b = (model.get_submodule(key.rsplit(".", 1)[0]) for key in pair)
        given = a if getattr(a, "loaded", False) else b
        for module in (a, b):
            if isinstance(module, LowBit) and not module.loaded and isinstance(given, LowBit):
                module.hold(given.codes, given.scale)
    for name, module in model.named_modules():
        if isinstance(module, LowBit | LowBitExperts) and not module.loaded:
            raise ModelLoadError(f"The checkpoint has no weights for '{name}'.", hint="Download the model again.")
    layers = [m for m in model.modules() if isinstance(m, Int8Linear) and m.panels is None]
    if not layers:
        return
    typical = _typical(layers, lambda layer: layer.codes.numel())
    shape = (typical.out_features, typical.in_features, typical.dtype, typical.codes.device)
    kernels = measure_kernels(*shape)
    whole = measure_kernels(*shape, WHOLE_INPUTS) if any(layer.whole_inputs for layer in layers) else kernels
    for layer in layers:
        layer.kernels = whole if layer.whole_inputs else kernels


def _typical(things: Iterable[T], size: Callable[[T], int]) -> T:
    """One of the size that half of the weights are in things up to."""
    ordered = sorted(things, key=size)
    half = sum(map(size, ordered)) / 2
    return ordered[next(at for at, below in enumerate(accumulate(map(size, ordered))) if below >= half)]
