"""The stacked experts of mixture-of-experts layers in packed 16, 8 or 4 bits.

transformers keeps the experts of a layer as two tensors, `gate_up_proj` and `down_proj`, `[experts, ...]`: most of a
model's weights. Here each expert becomes two low-bit linear layers, and a step computes those that its tokens were sent
to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from daemon.engines.transformers.lowbit import LowBitLinear

PARTS = ("gate_up_proj", "down_proj")


def is_stacked(module: Any) -> bool:
    """Whether a module holds experts in transformers' common form: a gate beside `up`, and nothing behind `down`.

    Others (experts without a gate, or with a norm of their own) keep their own format.
    """
    if not getattr(module, "has_gate", False) or getattr(module, "has_post_expert_norm", True):
        return False
    weights = {name: each for name, each in module.named_parameters(recurse=False) if not name.endswith("_bias")}
    return set(weights) == set(PARTS) and all(each.dim() == 3 for each in weights.values())


class LowBitExperts(nn.Module):
    """Takes the place of an experts module.

    Args:
        original: the module on `meta`; it goes on saying how gate and up become one.
        make: a low-bit layer `(inputs, outputs, dtype, transposed)` on `meta`.
    """

    apply_gate: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, original: Any, make: Callable[[int, int, torch.dtype, bool], LowBitLinear]) -> None:
        super().__init__()
        self._make = make
        self.transposed = bool(original.is_transposed)
        self.num_experts = int(original.gate_up_proj.shape[0])
        # Not a child: it has no weights, and none are to be looked for.
        object.__setattr__(self, "apply_gate", original._apply_gate)
        for name, parameter in original.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(torch.empty_like(parameter), requires_grad=False))
        self.layers = nn.ModuleDict()

    @property
    def loaded(self) -> bool:
        return set(self.layers) == {f"{part}_layers" for part in PARTS}

    def take(self, part: str, weight: torch.Tensor) -> None:
        """Quantise one of the stacked tensors of the checkpoint, expert by expert."""
        inputs, outputs = weight.shape[1:] if self.transposed else (weight.shape[2], weight.shape[1])
        layers = nn.ModuleList()
        for expert in weight:
            with torch.device("meta"):
                layer = self._make(inputs, outputs, weight.dtype, self.transposed)
            layer.take(expert)
            layers.append(layer)
        self.layers[f"{part}_layers"] = layers
        # What looks at it sees its shape and format; its values are NaN without memory behind them.
        stand_in = torch.full((1, 1, 1), float("nan"), dtype=weight.dtype, device=weight.device)
        setattr(self, part, nn.Parameter(stand_in.expand(weight.shape), requires_grad=False))

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The experts' answers, weighted and summed.

        Args:
            hidden: `[tokens, width]`.
            chosen: `[tokens, k]`, the experts of each token; one beyond the last is none.
            weights: `[tokens, k]`.
        """
        flat = hidden.reshape(-1, hidden.shape[-1])
        out = torch.zeros_like(flat)
        for expert in torch.unique(chosen).tolist():
            if expert >= self.num_experts:
                continue
            token, place = torch.where(chosen == expert)
            both = self._product("gate_up_proj", expert, flat[token])
            answer = self._product("down_proj", expert, self.apply_gate(both))
            out.index_add_(0, token, (answer * weights[token, place, None]).to(out.dtype))
        return out.view(hidden.shape)

    def _product(self, part: str, expert: int, x: torch.Tensor) -> torch.Tensor:
        layers = self.layers[f"{part}_layers"]
        assert isinstance(layers, nn.ModuleList)
        layer = layers[expert]
        assert isinstance(layer, LowBitLinear)
        out = layer.forward(x)
        bias = getattr(self, f"{part}_bias", None)
        return out if bias is None else out + bias[expert]
