"""How many tokens a model can attend over, from its own configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_target_positions",
)
_UNLIMITED = 10_000_000
"""Tokenizers without a limit report about 1e30."""
_UNSTATED = 2048
_SCALES_LENGTH = frozenset({"linear", "dynamic", "yarn"})


def context_length(config: Mapping[str, Any], tokenizer_limit: int | None = None) -> int:
    """The context length that a model was made for.

    `max_position_embeddings` is the length after scaling for every current family (Llama 3.1 says 131,072 and a factor
    of 8 over 8,192: the factor is not applied again). Only the older linear, dynamic and YaRN configurations state the
    length before scaling; they are recognised by an original length that is missing or equal to it. A sliding window
    bounds what one layer sees, not the context.

    Args:
        config: the text model's part of config.json as plain values.
        tokenizer_limit: the tokenizer's model_max_length, for models whose configuration has no limit (T5).
    """
    stated = next((int(config[key]) for key in _LENGTH_KEYS if isinstance(config.get(key), int)), 0)
    if stated <= 0:
        return tokenizer_limit if tokenizer_limit and tokenizer_limit < _UNLIMITED else _UNSTATED
    explicit = config.get("max_sequence_length")
    if isinstance(explicit, int) and explicit > stated:
        return explicit
    rope = config.get("rope_scaling") or config.get("rope_parameters")
    return _scaled(stated, rope) if isinstance(rope, Mapping) else stated


def _scaled(stated: int, rope: Mapping[str, Any]) -> int:
    kind = rope.get("rope_type", rope.get("type"))
    factor = rope.get("factor")
    # Per-layer-type tables (Gemma 3) hold mappings instead; their stated length is the final one.
    if kind not in _SCALES_LENGTH or not isinstance(factor, int | float) or factor <= 1:
        return stated
    original = rope.get("original_max_position_embeddings")
    if isinstance(original, int) and original < stated:
        return stated
    return int(stated * factor)
