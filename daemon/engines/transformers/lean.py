"""A lean forward for the Llama family of decoders (Llama, Mistral, Qwen 2 and 3), on the loaded model's own weights.

transformers' modules spend most of a small step in Python and in small operators. This runs the same mathematics with
a third of the operators: q, k and v are one product, gate and up another, the residual is added inside the product, and
rotary tables are looked up. `build_lean` gives None for any model that is not exactly of this shape, and the runner
then uses the model's own code; what is built is checked against that code before it is used (`agrees`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from daemon.engines.transformers.attention import AttentionKind, Step, attend
from daemon.engines.transformers.products import Product, merged, single, waits

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_GROWING_ROPE = frozenset({"dynamic", "longrope"})
"""These change their tables with the length of the sequence."""


def deviation(got: torch.Tensor, want: torch.Tensor) -> float:
    """How far two computations of logits `[rows, vocab]` are apart in the mean, in units of each row's spread."""
    spread = want.std(-1, keepdim=True).clamp_min(1e-6)
    return float(((got - want).abs() / spread).mean())


class Norm:
    """RMS normalisation over the last dimension."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        self._long: tuple[torch.Tensor, torch.Tensor] | None = None
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            # x / sqrt(mean(x^2) + eps) * w = x / hypot(|x|, sqrt(n * eps)) * (w * sqrt(n)): four operators, where
            # PyTorch's own takes eight on a CPU.
            size = weight.shape[0]
            self._long = (torch.tensor(math.sqrt(size * eps)), weight.detach() * math.sqrt(size))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._long is None:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        least, weight = self._long
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(least)
        return torch.div(x, length).mul_(weight)


@dataclass(slots=True)
class Layer:
    attention_norm: Norm
    qkv: Product
    query_norm: Norm | None
    key_norm: Norm | None
    out: Product
    mlp_norm: Norm
    gate_up: Product
    activation: Any
    down: Product
    kind: AttentionKind

    @property
    def norms(self) -> list[Norm]:
        every = (self.attention_norm, self.query_norm, self.key_norm, self.mlp_norm)
        return [norm for norm in every if norm is not None]


class LeanDecoder:
    """Logits of packed tokens."""

    def __init__(self, model: Any, layers: list[Layer], head: Product) -> None:
        config = model.config
        self._rotary = model.model.rotary_emb
        self.embed = model.model.embed_tokens
        self.norm = Norm(model.model.norm.weight, float(model.model.norm.variance_epsilon))
        self.layers = layers
        self.head = head
        self.width = int(config.hidden_size)
        self.inner = int(config.intermediate_size)
        self.dim = layers[0].query_norm.weight.shape[0] if layers[0].query_norm is not None else _head_dim(config)
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self._tables: tuple[torch.Tensor, torch.Tensor] | None = None
        self.waits = any(waits(p) for layer in layers for p in (layer.qkv, layer.down))
        """The host waits for the device inside a step, so that no graph can hold it."""

    def adapt(self, wrap: Callable[[int, str, Product], Product]) -> None:
        """Put what `wrap` gives in the place of each product: it gets the layer's number (-1 for the output layer),
        the product's name and the product."""
        for number, layer in enumerate(self.layers):
            layer.qkv = wrap(number, "qkv", layer.qkv)
            layer.out = wrap(number, "out", layer.out)
            layer.gate_up = wrap(number, "gate_up", layer.gate_up)
            layer.down = wrap(number, "down", layer.down)
        self.head = wrap(-1, "head", self.head)

    def logits(
        self, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor | None, last: int, step: Step
    ) -> torch.Tensor:
        """Logits `[rows, vocab]`.

        Args:
            ids: `[N]`; positions: `[N]`, the largest of them `last`.
            keep: the tokens whose logits are wanted; None for all.
        """
        hidden = self._hidden(ids, positions, last, step)
        if keep is not None:
            hidden = hidden[keep]
        return self.head(self.norm(hidden))

    def _hidden(self, ids: torch.Tensor, positions: torch.Tensor, last: int, step: Step) -> torch.Tensor:
        x: torch.Tensor = self.embed(ids)
        cos, sin = (table[positions].unsqueeze(1) for table in self.tables(last))
        heads, kv_heads, dim = self.heads, self.kv_heads, self.dim
        for index, layer in enumerate(self.layers):
            qkv = layer.qkv(layer.attention_norm(x)).view(-1, heads + 2 * kv_heads, dim)
            qk, v = qkv.split_with_sizes((heads + kv_heads, kv_heads), 1)
            if layer.query_norm is not None and layer.key_norm is not None:
                qk = torch.cat(
                    [
                        layer.query_norm(qkv[:, :heads]),
                        layer.key_norm(qkv[:, heads : heads + kv_heads]),
                    ],
                    1,
                )
            low, high = qk.chunk(2, -1)
            turned = torch.cat((high, low), -1).mul_(sin).addcmul_(qk, cos)
            queries, keys = turned.split_with_sizes((heads, kv_heads), 1)
            mixed = attend(step, index, queries, keys, v, layer.kind)
            x = layer.out.add(x, mixed.reshape(-1, heads * dim))
            gate, up = layer.gate_up(layer.mlp_norm(x)).chunk(2, -1)
            x = layer.down.add(x, layer.activation(gate).mul_(up))
        return x

    def tables(self, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin `[positions, dim]` up to the position `last`, the first half of the sines negated: what they are
        multiplied with has its halves exchanged."""
        if self._tables is None or self._tables[0].shape[0] <= last:
            size = 1 << max(10, last.bit_length())
            like = self.norm.weight
            everything = torch.arange(size, device=like.device)[None]
            cos, sin = self._rotary(like[None], everything)
            low, high = sin[0].chunk(2, -1)
            self._tables = (cos[0].contiguous(), torch.cat((-low, high), -1))
        return self._tables


def build_lean(model: Any, kinds: list[AttentionKind]) -> LeanDecoder | None:
    """The lean form of a loaded model, or None when it is not of this family or not in one place.

    The merged weights replace the model's own: q, k and v become views of one tensor, so nothing is held twice.
    """
    config = model.config
    if config.model_type not in _FAMILIES or getattr(model, "hf_device_map", None) not in (None, {}):
        devices = {str(p.device) for p in model.parameters()}
        if config.model_type not in _FAMILIES or len(devices) != 1:
            return None
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") in _GROWING_ROPE or not all(kind.plain for kind in kinds):
        return None
    head = single(model.lm_head)
    eps = float(model.model.norm.variance_epsilon)
    layers = [_layer(module, kind, eps) for module, kind in zip(model.model.layers, kinds, strict=True)]
    if head is None or any(layer is None for layer in layers):
        return None
    return LeanDecoder(model, [layer for layer in layers if layer is not None], head)


def _layer(module: Any, kind: AttentionKind, eps: float) -> Layer | None:
    attention, mlp = module.self_attn, module.mlp
    qkv = merged([attention.q_proj, attention.k_proj, attention.v_proj])
    gate_up = merged([mlp.gate_proj, mlp.up_proj])
    out, down = single(attention.o_proj), single(mlp.down_proj)
    if qkv is None or gate_up is None or out is None or down is None:
        return None
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Layer(
        attention_norm=Norm(module.input_layernorm.weight, eps),
        qkv=qkv,
        query_norm=None if query_norm is None else Norm(query_norm.weight, eps),
        key_norm=None if key_norm is None else Norm(key_norm.weight, eps),
        out=out,
        mlp_norm=Norm(module.post_attention_layernorm.weight, eps),
        gate_up=gate_up,
        activation=F.silu if type(mlp.act_fn).__name__ in {"SiLU", "SiLUActivation"} else mlp.act_fn,
        down=down,
        kind=kind,
    )


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
