"""The products of the lean forward: one linear layer's, or several of the same input merged into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from daemon.engines.transformers.half import HalfLinear
from daemon.engines.transformers.kernels.panels import Panels, joined
from daemon.engines.transformers.lowbit import Int8Linear, LowBitLinear, join_layers


@dataclass(slots=True)
class Dense:
    """A product with a plain weight `[out, in]`; `add` fuses the sum with what is already there."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    turned: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.bias is not None:
            residual = residual + self.bias
        return torch.addmm(residual, x, self.turned)


@dataclass(slots=True)
class LowBit:
    """A product with int8 or packed 16-bit weights; hooks on the layer are for the model's own code, and passed by."""

    layer: LowBitLinear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer.forward(x)

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.layer.forward(x).add_(residual)


@dataclass(slots=True)
class Foreign:
    """Layers that cannot be merged, such as bitsandbytes': the same input through each, side by side."""

    layers: list[Any]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        # Not the modules themselves: what is hooked onto those is added to the whole product instead.
        outputs = [layer.forward(x) for layer in self.layers]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return residual + self(x)


class Product(Protocol):
    """One product of a layer, or several of the same input merged into one."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor: ...


def single(module: Any) -> Product | None:
    """The product of one linear layer, or None for one of another kind."""
    if isinstance(module, Int8Linear | HalfLinear) and (module.panels is not None or not module.transposed):
        return LowBit(module)
    if _is_foreign(module):
        return Foreign([module])
    if type(module) is not nn.Linear or module.weight.dtype not in {torch.float32, torch.bfloat16, torch.float16}:
        return None
    return Dense(module.weight, module.bias, module.weight.t())


def merged(modules: list[Any]) -> Product | None:
    """Several products of one input as one, or None where they cannot be merged."""
    if all(type(m) is nn.Linear for m in modules):
        return _merged_dense(modules)
    if all(isinstance(m, Int8Linear | HalfLinear) and m.panels is not None for m in modules):
        whole = _merged_panels(modules)
        return Foreign(list(modules)) if whole is None else LowBit(whole)
    if all(isinstance(m, Int8Linear) and m.panels is None and not m.transposed for m in modules):
        return LowBit(_merged_int8(modules))
    if all(_is_foreign(m) for m in modules):
        return Foreign(list(modules))
    return None


def packed_parts(product: Product) -> tuple[Panels, torch.Tensor | None] | None:
    """The panels of a product that has them, and its bias."""
    if not isinstance(product, LowBit) or product.layer.panels is None:
        return None
    return product.layer.panels, product.layer.bias


def _is_foreign(module: Any) -> bool:
    return type(module).__name__ in {"Linear4bit", "Linear8bitLt"} and "bitsandbytes" in type(module).__module__


def waits(product: Product) -> bool:
    """LLM.int8 asks the device which columns hold outliers before it goes on."""
    return isinstance(product, Foreign) and any(type(layer).__name__ == "Linear8bitLt" for layer in product.layers)


def _merged_dense(modules: list[Any]) -> Dense:
    weight = torch.cat([m.weight.detach() for m in modules])
    biases = [m.bias for m in modules]
    bias = None
    if any(b is not None for b in biases):
        bias = torch.cat([m.weight.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules])
    at = 0
    for m in modules:
        m.weight.data = weight[at : at + m.out_features]
        at += m.out_features
    return Dense(weight, bias, weight.t())


def _merged_panels(modules: list[LowBitLinear]) -> LowBitLinear | None:
    panels = joined([module.panels for module in modules if module.panels is not None])
    if panels is None:
        return None
    first = modules[0]
    whole = LowBitLinear(first.in_features, 1, bias=False, dtype=first.dtype, transposed=False)
    whole.out_features = panels.columns
    whole.hold_panels(panels)
    join_layers(whole, modules)
    return whole


def _merged_int8(modules: list[Any]) -> Int8Linear:
    first = modules[0]
    outputs = sum(m.out_features for m in modules)
    has_bias = any(m.bias is not None for m in modules)
    whole = Int8Linear(first.in_features, 1, bias=False, dtype=first.dtype, transposed=False)
    whole.out_features = outputs
    if has_bias:
        parts = [first.scale.new_zeros(m.out_features) if m.bias is None else m.bias.detach() for m in modules]
        whole.bias = nn.Parameter(torch.cat([p.to(first.dtype) for p in parts]), requires_grad=False)
    whole.hold(torch.cat([m.codes for m in modules]), torch.cat([m.scale for m in modules]))
    whole.kernels = first.kernels
    at = 0
    for m in modules:
        m.codes, m.scale = whole.codes[at : at + m.out_features], whole.scale[at : at + m.out_features]
        at += m.out_features
    return whole
