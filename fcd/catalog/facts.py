"""What a model's own files say about it: architecture, context length, memory need."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec

from fcd.catalog.hub import weight_files
from fcd.machine import PACKED_HALF

_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "I64": 64,
    "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_DTYPE_BITS: Mapping[str, int] = {"float32": 32, "float16": 16, "bfloat16": 16, "half": 16, "float": 32}
_MAX_HEADER = 100_000_000
"""The safetensors format's own bound on its header, in bytes."""
_GROUP = 64
"""Weights that share one scale of two bytes, as 4-bit loading stores them; 8-bit has one scale per row."""


class ModelFacts(msgspec.Struct, frozen=True):
    """From config.json and the tokenizer's files. Empty and 0 mean: not said there."""

    architecture: str = ""
    model_type: str = ""
    context_length: int = 0
    """Tokens, prompt and completion together."""
    layers: int = 0
    hidden_size: int = 0
    vocab_size: int = 0
    kv_values_per_token: int = 0
    """Numbers that the KV cache holds for one token, all layers together."""
    attention_heads: int = 0
    kv_heads: int = 0
    dtype: str = ""
    quantization: str = ""
    """The method of weights that were quantized before they were published."""
    has_chat_template: bool = False


class Estimate(msgspec.Struct, frozen=True):
    """Memory that a model needs, in bytes."""

    weights_bytes: int
    kv_bytes_per_token: int
    """0 when the configuration does not say enough."""
    context_length: int
    parameters: int
    pickled: bool = False
    """The weights are pickled, so the figures are those of the files."""

    def total_bytes(self, tokens: int) -> int:
        """Weights, and the KV cache of so many tokens."""
        return self.weights_bytes + self.kv_bytes_per_token * tokens


class TensorHeader(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def bits(self) -> int:
        return _BITS.get(self.dtype, 16)


def read_facts(folder: Path) -> ModelFacts:
    """Read them; what is missing or unreadable stays empty."""
    config = _read_json(folder / "config.json")
    text = _text_config(config)
    names = config.get("architectures")
    quantization = config.get("quantization_config")
    return ModelFacts(
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        model_type=str(config.get("model_type") or ""),
        context_length=context_length(config),
        layers=_integer(text, "num_hidden_layers", "n_layer", "num_layers", "num_decoder_layers"),
        hidden_size=_integer(text, "hidden_size", "n_embd", "d_model"),
        vocab_size=_integer(text, "vocab_size"),
        kv_values_per_token=kv_values_per_token(text),
        attention_heads=_integer(text, "num_attention_heads", "n_head", "num_heads"),
        kv_heads=_integer(text, "num_key_value_heads", "num_kv_heads"),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or ""),
        quantization=str(quantization.get("quant_method", "")) if isinstance(quantization, Mapping) else "",
        has_chat_template=_has_chat_template(folder),
    )


def context_length(config: Mapping[str, Any]) -> int:
    """Tokens that a model was made for; 0 when its configuration does not say.

    Position scaling of the kinds `linear` and `dynamic` multiplies the length, `yarn` multiplies the original one, and
    with the others (`llama3`, `longrope`) max_position_embeddings is the full length already.
    """
    text = _text_config(config)
    length = _integer(
        text, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len", "n_ctx"
    )
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if not length or not isinstance(scaling, Mapping):
        return length
    kind = scaling.get("rope_type") or scaling.get("type")
    factor = scaling.get("factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        return length
    if kind in ("linear", "dynamic"):
        return int(length * factor)
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings")
        return max(length, int(original * factor)) if isinstance(original, int) else length
    return length


def kv_values_per_token(text: Mapping[str, Any]) -> int:
    """Keys and values of one token over all layers: 2 * layers * kv_heads * head_dim.

    Latent attention (DeepSeek) keeps one compressed vector and the rotary part instead. Layers that are not attention
    are not counted where the configuration lists them.
    """
    layers = _integer(text, "num_hidden_layers", "n_layer", "num_decoder_layers", "num_layers")
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        layers = sum("attention" in str(kind) and "linear" not in str(kind) for kind in kinds)
    latent = _integer(text, "kv_lora_rank")
    if latent:
        return layers * (latent + _integer(text, "qk_rope_head_dim"))
    heads = _integer(text, "num_attention_heads", "n_head", "num_heads")
    kv_heads = _integer(text, "num_key_value_heads", "num_kv_heads") or heads
    head_dim = _integer(text, "head_dim", "d_kv")
    if not head_dim and heads:
        head_dim = _integer(text, "hidden_size", "n_embd", "d_model") // heads
    return 2 * layers * kv_heads * head_dim


def estimate(folder: Path, quantization: str = "", *, dtype: str = "", packed: bool = False) -> Estimate:
    """Memory for a model's weights and for each token that it keeps.

    `quantization` is `8bit`, `4bit` or empty; `dtype` is what floats are converted to, empty for what the files hold,
    or `fcd.machine.PACKED_HALF`. `packed` weights are of 16 bits.
    Quantization shrinks the matrices of the layers; embeddings and the output head keep their type.
    """
    facts = read_facts(folder)
    kv_bits = _DTYPE_BITS.get((dtype or facts.dtype).partition(" ")[0], 16)
    if dtype == PACKED_HALF and sys.platform == "linux":
        # Where the engine has kernels that read it so.
        kv_bits = 16
    floats = "float16" if packed else dtype
    kv_bytes = facts.kv_values_per_token * kv_bits // 8
    files = weight_files(folder)
    if files and files[0].suffix != ".safetensors":
        size = sum(file.stat().st_size for file in files)
        bits = _DTYPE_BITS.get(facts.dtype, 16)
        return Estimate(size, kv_bytes, facts.context_length, size * 8 // bits, pickled=True)
    weights = parameters = 0
    tensors = [tensor for file in files for tensor in read_safetensors_header(file)]
    for tensor in tensors:
        weights += _loaded_bytes(tensor, quantization, floats)
        parameters += tensor.count
    return Estimate(weights, kv_bytes, facts.context_length, parameters)


def read_safetensors_header(file: Path) -> Iterator[TensorHeader]:
    """The tensors that a file holds, without reading their data.

    Raises:
        ValueError: not a safetensors file.
    """
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= _MAX_HEADER:
            raise ValueError(f"{file} is not a safetensors file, or was cut short.")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise ValueError(f"{file} is not a safetensors file: its header is not JSON.") from error
    for name, entry in header.items():
        if name != "__metadata__":
            yield TensorHeader(name, str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))


def _loaded_bytes(tensor: TensorHeader, quantization: str, dtype: str) -> int:
    bits = tensor.bits
    if tensor.dtype in _FLOATS:
        bits = _DTYPE_BITS.get(dtype, bits)
        if quantization and _is_quantized(tensor):
            width = 8 if quantization == "8bit" else 4
            scales = tensor.shape[0] * 4 if width == 8 else tensor.count // _GROUP * 2
            return tensor.count * width // 8 + scales
    return (tensor.count * bits + 7) // 8


def _is_quantized(tensor: TensorHeader) -> bool:
    kept = ("embed", "lm_head", "wte", "wpe", "shared")
    return len(tensor.shape) == 2 and not any(word in tensor.name for word in kept)


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    return bool(_read_json(folder / "tokenizer_config.json").get("chat_template"))


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a model that also sees or hears."""
    for name in ("text_config", "llm_config", "language_config"):
        inner = config.get(name)
        if isinstance(inner, Mapping):
            return inner
    return config


def _integer(table: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _read_json(file: Path) -> dict[str, Any]:
    try:
        decoded = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
