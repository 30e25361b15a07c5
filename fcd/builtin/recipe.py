"""The two models' shapes and how long they are trained: everything that decides what comes out, but the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fcd.builtin import CONTEXT_LENGTH
from fcd.builtin.tokenizer import END, PAD

HEAD_SIZE: Final = 64


@dataclass(frozen=True)
class Size:
    """Shape and learning rate of one model. `steps` are optimizer steps of one batch each."""

    hidden: int
    layers: int
    inner: int
    learning_rate: float
    steps: int


SIZES: Final[dict[str, Size]] = {
    "guide": Size(hidden=256, layers=8, inner=768, learning_rate=2.5e-3, steps=6000),
    "guide-mini": Size(hidden=128, layers=8, inner=384, learning_rate=4e-3, steps=6000),
}


def model_config(size: Size, vocabulary: int) -> Any:
    """The transformers LlamaConfig of `size`: heads of 64, tied embeddings, 2,048 positions."""
    from transformers import LlamaConfig

    heads = size.hidden // HEAD_SIZE
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=HEAD_SIZE,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
        initializer_range=size.hidden**-0.5 / 2,
    )
