"""LoRA adapters on disk, in PEFT's layout: what can be used is read, what cannot is refused before the model is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fcd.errors import ModelLoadError

MOST_ADAPTERS = 64
"""Adapters over one model: a step that uses several reads the weights of all that it uses."""
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_KEY = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\.(?:lora_(?P<half>[AB])\.weight|lora_embedding_(?P<table>[AB]))$"
)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways to begin a training that change the model's own weights: the file alone does not say how."""
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA (use_dora)",
    "modules_to_save": "whole layers of its own (modules_to_save)",
    "lora_bias": "biases of its own (lora_bias)",
    "layer_replication": "repeated layers (layer_replication)",
    "target_parameters": "weights that are no linear layer's (target_parameters)",
    "trainable_token_indices": "tokens of its own (trainable_token_indices)",
    "use_qalora": "QALoRA (use_qalora)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "arrow_config": "a mixture of adapters (arrow_config)",
}


@dataclass(frozen=True)
class Pair:
    """One layer's two matrices: `down` `[rank, inputs]` and `up` `[outputs, rank]`, scaled already.

    For an embedding table `inputs` are the tokens.
    """

    down: torch.Tensor
    up: torch.Tensor
    is_table: bool


@dataclass(frozen=True)
class AdapterFile:
    """An adapter that can be used, its weights not yet read."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    def scaling(self, module: str, rank: int) -> float:
        """What the product is multiplied by: alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA.

        `alpha_pattern` may name another alpha for some layers, in PEFT's way: a regular expression for the name's end.
        """
        alpha = _for_module(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def pairs(self) -> dict[str, Pair]:
        """The matrices of each layer that it changes, by the layer's name in the model.

        Which layers these are is what the file holds: `target_modules` (a list, an expression, `all-linear`) is how
        they were chosen when it was trained.

        Raises:
            ModelLoadError: the file is broken, or holds what is no low-rank pair.
        """
        from safetensors import SafetensorError, safe_open

        halves: dict[str, dict[str, torch.Tensor]] = {}
        tables: set[str] = set()
        try:
            with safe_open(self.folder / _WEIGHTS, "pt") as file:
                for key in file.keys():  # noqa: SIM118
                    match = _KEY.match(key)
                    if match is None:
                        raise self.refusal(f"its file holds '{key}', which is no part of a low-rank pair")
                    module = match["module"]
                    if match["table"]:
                        tables.add(module)
                    halves.setdefault(module, {})[match["half"] or match["table"]] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise self.refusal(f"{_WEIGHTS} cannot be read ({error})", "Copy or download the adapter again.") from error
        if not halves:
            raise self.refusal(f"{_WEIGHTS} is empty", "Copy or download the adapter again.")
        return {module: self._pair(module, found, module in tables) for module, found in halves.items()}

    def _pair(self, module: str, found: Mapping[str, torch.Tensor], is_table: bool) -> Pair:
        if set(found) != {"A", "B"}:
            raise self.refusal(f"half of the pair for '{module}' is missing", "Copy or download the adapter again.")
        down, up = found["A"], found["B"]
        rank = int(_for_module(self.config.get("rank_pattern"), module, self.config.get("r", 8)))
        if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1] or down.shape[0] != rank:
            shapes = f"{list(down.shape)} and {list(up.shape)}"
            raise self.refusal(f"the pair for '{module}' has the shapes {shapes}, and its rank is said to be {rank}")
        return Pair(down, up.float() * self.scaling(module, rank), is_table)

    def refusal(self, why: str, hint: str = "Merge the adapter into its model, or load it without.") -> ModelLoadError:
        """What to raise when it cannot be used."""
        return ModelLoadError(f"The adapter '{self.name}' in {self.folder} cannot be used: {why}.", hint=hint)


def read_adapters(modules: Mapping[str, str]) -> list[AdapterFile]:
    """The adapters of `--lora-modules`, checked as far as that goes without the model.

    Raises:
        ModelLoadError: one is not there, or is of a kind that is not run here.
    """
    if len(modules) > MOST_ADAPTERS:
        raise ModelLoadError(
            f"{len(modules)} adapters were given; one model takes {MOST_ADAPTERS}.", hint="Start another worker."
        )
    return [_read(name, Path(path).expanduser()) for name, path in modules.items()]


def _read(name: str, folder: Path) -> AdapterFile:
    hint = "Give the folder that holds adapter_config.json and adapter_model.safetensors."
    if not folder.is_dir():
        raise ModelLoadError(f"There is no folder {folder} for the adapter '{name}'.", hint=hint)
    if not (folder / _CONFIG).is_file():
        raise ModelLoadError(f"The folder {folder} of the adapter '{name}' has no {_CONFIG}.", hint=hint)
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{folder / _CONFIG} cannot be read: {error}.", hint="Copy the adapter again.") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{folder / _CONFIG} is no JSON object.", hint="Copy the adapter again.")
    adapter = AdapterFile(name, folder, config)
    if not (folder / _WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise adapter.refusal(
            f"{_WEIGHTS} is missing"
            + ("; adapter_model.bin could run code when it is read, so it is not" if pickled else ""),
            "Save it with PEFT's save_pretrained, which writes safetensors.",
        )
    _check_kind(adapter)
    return adapter


def _check_kind(adapter: AdapterFile) -> None:
    config = adapter.config
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise adapter.refusal(f"it is of the kind {kind}, and only LoRA is run here")
    for field, what in _REFUSED.items():
        if config.get(field):
            raise adapter.refusal(f"it has {what}, which is not run here")
    if config.get("bias", "none") != "none":
        raise adapter.refusal(f"it trained biases too (bias = {config['bias']!r}), which are not run here")
    begun = str(config.get("init_lora_weights", "")).lower()
    if begun.startswith(_CHANGES_BASE):
        raise adapter.refusal(
            f"its training began with {begun}, which changes the model's own weights",
            "Convert it with save_pretrained's path_initial_model_for_weight_conversion.",
        )
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(field) or {}:
            try:
                re.compile(pattern)
            except re.error as error:
                raise adapter.refusal(f"{field} holds {pattern!r}, which is no expression ({error})") from None


def _for_module(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that the whole name, or its end behind a dot, fits."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
