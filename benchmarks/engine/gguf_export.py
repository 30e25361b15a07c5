"""Writes one of our Llama models as GGUF, in bf16 or q8_0, for llama.cpp. Needs the `gguf` package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export(folder: Path, precision: str) -> Path:
    """`precision` is `bf16` or `q8_0`; norms stay in fp32. Returns the file."""
    import gguf
    from safetensors.torch import load_file

    target = folder / f"{folder.name}-{precision}.gguf"
    if target.exists():
        return target
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "llama")
    _write_header(writer, config, folder, precision)
    kind = gguf.GGMLQuantizationType.BF16 if precision == "bf16" else gguf.GGMLQuantizationType.Q8_0
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = _interleave(values, heads)
        if values.ndim == 1:
            writer.add_tensor(_rename(name), values.astype(np.float32))
        else:
            writer.add_tensor(_rename(name), gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _rename(name: str) -> str:
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _interleave(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp rotates neighbouring pairs where transformers rotates halves: reorder each head's rows."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_header(writer: Any, config: dict[str, Any], folder: Path, precision: str) -> None:
    import gguf

    writer.add_name(folder.name)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if precision == "bf16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens: list[str] = [f"<|unused{number}|>" for number in range(config["vocab_size"])]
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number] = token
    special = {entry["id"] for entry in tokenizer["added_tokens"]}
    control, normal, unused = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    known = len(tokenizer["model"]["vocab"])
    kinds = [control if number in special else normal if number < known else unused for number in range(len(tokens))]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
