"""Random-weight Llama models that every peer can load, with a byte-level BPE tokenizer trained on Python's own sources.

The end-of-sequence token's row of the output layer is zero, so that its logit is never the largest and every answer
has exactly the length that was asked for.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "120m": {
        "hidden_size": 768,
        "intermediate_size": 2304,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "head_dim": 64,
    },
    "600m": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
}
VOCABULARY = {"120m": 16_384, "600m": 65_536}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_model(folder: Path, size: str) -> Path:
    """Write the model of that size into `folder/bench-SIZE`, once; returns that folder."""
    target = folder / f"bench-{size}"
    if (target / "model.safetensors").exists():
        return target
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = _make_tokenizer(min(VOCABULARY[size], 16_384))
    config = LlamaConfig(
        vocab_size=VOCABULARY[size],
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES[size],
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 0
        model.lm_head.weight[len(tokenizer) :] = 0
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _keep_old_spellings(target)
    return target


def _make_tokenizer(size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sources], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096
    )
    fast.chat_template = TEMPLATE
    return fast


def _keep_old_spellings(target: Path) -> None:
    """transformers 4 reads `torch_dtype`, `rope_theta` and the tokenizer's old class; 5 reads both spellings."""
    changes = {
        "config.json": {"torch_dtype": "bfloat16", "rope_theta": 10000.0},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    for name, values in changes.items():
        tree = json.loads((target / name).read_text())
        (target / name).write_text(json.dumps({**tree, **values}, indent=2))


def make_prompts(folder: Path, count: int, tokens: int) -> list[str]:
    """Different texts of about `tokens` tokens each, cut from Python's own sources."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (Path(sysconfig.get_paths()["stdlib"]) / "argparse.py").read_text()
    ids = tokenizer.encode(text)
    step = max(1, (len(ids) - tokens) // count)
    return [tokenizer.decode(ids[start * step : start * step + tokens]) for start in range(count)]
