"""How hidden states become a vector: as the model's own sentence-transformers files say, else their normalised mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from fcd.errors import ModelLoadError

_MODES: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The switches of 1_Pooling/config.json, in the order in which several are put side by side."""

_POOLS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.amax(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / hidden.shape[0] ** 0.5,
    "weightedmean": lambda hidden: _weighted(hidden),
    "lasttoken": lambda hidden: hidden[-1],
}
_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
}


def _weighted(hidden: torch.Tensor) -> torch.Tensor:
    """The mean with weights that grow with the position: 1, 2, 3..."""
    weights = torch.arange(1, hidden.shape[0] + 1, dtype=hidden.dtype, device=hidden.device)[:, None]
    return (hidden * weights).sum(0) / weights.sum()


@dataclass(frozen=True)
class Dense:
    """A linear layer behind the pooling."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    activation: str

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weight.to(x.device), None if self.bias is None else self.bias.to(x.device)
        return _ACTIVATIONS[self.activation](F.linear(x, weight, bias))


@dataclass(frozen=True)
class Pooling:
    """`modes` are put side by side, then go through `layers`, then are made 1 long if `normalise`."""

    modes: tuple[str, ...] = ("mean",)
    normalise: bool = True
    layers: tuple[Dense, ...] = ()
    longest: int = 0
    """Tokens that the model was made to see at once; 0 where its files do not say."""

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """One text's vector from its hidden states `[tokens, width]`, without padding; in fp32."""
        states = hidden.float()
        vector = torch.cat([_POOLS[mode](states) for mode in self.modes])
        for layer in self.layers:
            vector = layer(vector)
        return F.normalize(vector, dim=-1) if self.normalise else vector


def read_pooling(folder: Path) -> Pooling:
    """From modules.json and the folders that it names.

    Raises:
        ModelLoadError: a file is broken, or asks for what is not offered.
    """
    modules = _read(folder / "modules.json", [])
    if not modules:
        return Pooling()
    modes: tuple[str, ...] = ("mean",)
    layers: list[Dense] = []
    normalise = False
    for module in modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], folder / str(module.get("path", ""))
        if kind == "Pooling":
            modes = _modes(path / "config.json")
        elif kind == "Dense":
            layers.append(_dense(path))
        elif kind == "Normalize":
            normalise = True
        elif kind not in ("Transformer", "Dropout"):
            raise ModelLoadError(
                f"'{folder / 'modules.json'}' has a module '{kind}', which is not offered for embeddings here.",
                hint="Use another embedding model.",
            )
    longest = _read(folder / "sentence_bert_config.json", {}).get("max_seq_length") or 0
    return Pooling(modes, normalise, tuple(layers), int(longest))


def _modes(file: Path) -> tuple[str, ...]:
    config = _read(file, {})
    named = config.get("pooling_mode")
    found = [named] if isinstance(named, str) else list(named or ())
    found = found or [mode for switch, mode in _MODES.items() if config.get(switch)]
    unknown = [mode for mode in found if mode not in _POOLS]
    if unknown:
        raise ModelLoadError(f"'{file}' asks for the pooling {unknown[0]!r}, which is not offered here.")
    return tuple(found) or ("mean",)


def _dense(folder: Path) -> Dense:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _read(folder / "config.json", {})
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise ModelLoadError(f"'{folder / 'config.json'}' asks for {activation}, which is not offered here.")
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ModelLoadError(
            f"'{file}' is missing: the model's vectors go through the layer in it.",
            hint="Use a version of the model in safetensors format.",
        )
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"'{file}' cannot be read: {error}.", hint="Download the model again.") from error
    bias = tensors.get("linear.bias")
    return Dense(tensors["linear.weight"].float(), None if bias is None else bias.float(), activation)


def _read(file: Path, default: Any) -> Any:
    """A JSON file, `default` where it is not there. Raises ModelLoadError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"'{file}' cannot be read: {error}.", hint="Download the model again.") from error
