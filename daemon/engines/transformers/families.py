"""Which models the packed runner can serve, read from their class and configuration."""

from __future__ import annotations

from typing import Any

_PLAIN_LAYERS = frozenset({"full_attention", "sliding_attention"})


def can_pack(config: Any, model_class: Any) -> bool:
    """Whether a model is a decoder whose every layer is attention through transformers' attention interface.

    State-space, hybrid and encoder-decoder models are not, nor those that compute attention by themselves. What passes
    here is still checked against the model's own attention once it is loaded (`packed_agrees`).
    """
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or getattr(model_class, "_is_stateful", False):
        return False
    if not getattr(model_class, "_supports_attention_backend", False):
        return False
    if getattr(text, "num_kv_shared_layers", 0):
        return False
    kinds = getattr(text, "layer_types", None) or ()
    return all(kind in _PLAIN_LAYERS for kind in kinds)


def has_relative_positions(config: Any) -> bool:
    """Whether a decoder knows positions by their distance only (T5), so that rows may be padded on the left."""
    return getattr(config, "relative_attention_num_buckets", None) is not None
