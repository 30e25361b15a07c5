"""Which models the packed runner can serve, read from their class and configuration."""

from __future__ import annotations

import inspect
from typing import Any

_WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
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


def is_softcapped(config: Any) -> bool:
    """Whether a model caps its attention scores (Gemma 2, T5Gemma), which SDPA cannot.

    transformers up to 5.17 takes SDPA for these and passes over the cap, so that what comes out is another model's.
    """
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", None) or ())]
    return any(getattr(part, "attn_logit_softcapping", None) for part in parts)


def has_eyes(config: Any) -> bool:
    """Whether a configuration is of a decoder with a part that sees images."""
    from transformers import AutoModelForImageTextToText

    if config.is_encoder_decoder or getattr(config, "vision_config", None) is None:
        return False
    return type(config) in AutoModelForImageTextToText._model_mapping


def is_encoder(config: Any) -> bool:
    """Whether a model is an encoder alone (BERT and its kin), which embeds texts and writes none.

    Its family fills in masked words, and neither its classes nor its switches say that this one goes on writing.
    """
    from transformers import AutoModelForMaskedLM

    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        return False
    if type(config) not in AutoModelForMaskedLM._model_mapping:
        return False
    return not any(name.endswith(_WRITERS) for name in config.architectures or ())


def has_pooler(model_class: Any) -> bool:
    """Whether an encoder's class adds a layer for classification, which no embedding goes through."""
    return "add_pooling_layer" in inspect.signature(model_class.__init__).parameters


def encoder_length(model: Any, stated: int, *limits: int) -> int:
    """The tokens that an encoder takes at once: the least of what its parts say.

    RoBERTa and its kin begin to count positions behind the padding's id.
    """
    offset = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    stated -= offset + 1 if isinstance(offset, int) else 0
    return min([stated, *(limit for limit in limits if limit)])


def has_relative_positions(config: Any) -> bool:
    """Whether a decoder knows positions by their distance only (T5), so that rows may be padded on the left."""
    return getattr(config, "relative_attention_num_buckets", None) is not None
