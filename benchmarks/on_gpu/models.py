"""Random-weight Llamas with a small BPE tokenizer and a chat template.

python -m benchmarks.on_gpu.models FOLDER SIZE
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "7b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
VOCABULARY = 8192


def make(folder: Path, size: str) -> None:
    """Write a complete folder in Hugging Face's layout, once. Needs torch and transformers."""
    if (folder / "made").exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    shape: dict[str, Any] = dict(SIZES[size])
    heads = shape["num_attention_heads"]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=8192,
        num_key_value_heads=min(heads, 8),
        head_dim=shape["hidden_size"] // heads,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        tie_word_embeddings=False,
        **shape,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    (folder / "made").touch()
    count = sum(each.numel() for each in model.parameters()) / 1e9
    print(f"{folder.name}: {count:.2f} billion random weights in {time.monotonic() - began:.0f} s", flush=True)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = sorted(str(path) for path in Path(os.__file__).parent.glob("*.py"))[:150]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2])
