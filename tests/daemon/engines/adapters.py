"""Write random LoRA adapters in PEFT's layout, and merge them into a model: the plain way to the same answers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every linear layer but the output layer, by name."""
    found: dict[str, tuple[int, int]] = {}
    for name, module in model.named_modules():
        if module is model.get_output_embeddings():
            continue
        if isinstance(module, torch.nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":
            found[name] = (module.weight.shape[0], module.nf)
    return found


def make_adapter(
    folder: Path,
    model_path: Path,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    rank: int = 4,
    seed: int = 0,
    tables: bool = False,
    **config: Any,
) -> Path:
    """An adapter with random weights over the layers whose name `wanted` accepts; with `tables` over the embedding and
    the output layer too."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path)
    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    ranks: Mapping[str, int] = config.get("rank_pattern", {})
    for name, (inputs, outputs) in linear_layers(model).items():
        if wanted(name):
            own = next((r for key, r in ranks.items() if re.match(rf"(.*\.)?({key})$", name)), rank)
            tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(own, inputs) * 0.3
            tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, own) * 0.3
    if tables:
        count, width = model.get_input_embeddings().weight.shape
        tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.randn(rank, count) * 0.3
        tensors["base_model.model.model.embed_tokens.lora_embedding_B"] = torch.randn(width, rank) * 0.3
        tensors["base_model.model.lm_head.lora_A.weight"] = torch.randn(rank, width) * 0.3
        tensors["base_model.model.lm_head.lora_B.weight"] = torch.randn(count, rank) * 0.3
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": "all-linear", "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def merged_model(model_path: Path, folder: Path | None) -> Any:
    """transformers' own model in fp32 with the adapter added to its weights."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    if folder is None:
        return model
    # What is changed on one side of a tied pair must not change the other.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    for key, down in tensors.items():
        if not key.endswith(("lora_A.weight", "lora_embedding_A")):
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight").removesuffix(".lora_embedding_A")
        up = tensors[key.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B")]
        rank, alpha = down.shape[0], config["lora_alpha"]
        for pattern, value in config.get("alpha_pattern", {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                alpha = value
        product = up @ down * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
        module = model.get_submodule(name)
        turned = type(module).__name__ == "Conv1D" or isinstance(module, torch.nn.Embedding)
        module.weight.data += product.T if turned else product
    return model


@torch.no_grad()
def merged_answer(model: Any, ids: list[int], count: int) -> list[int]:
    """`count` greedy tokens by `model.generate`."""
    out = model.generate(
        torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None
    )
    answer: list[int] = out[0, len(ids) :].tolist()
    return answer
