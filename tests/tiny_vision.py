"""Small random models that see images, each a complete Hugging Face folder with its processor: no network, no weights.

`tiny_vision("llava")` is one; the families differ in what they do with an image: LLaVA puts one block of features into
the text, SmolVLM cuts it into tiles, Gemma 3 lets its tokens see each other, Qwen 2.5-VL gives them positions of two
dimensions.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.tiny_models import VOCABULARY, make_tokenizer

FAMILIES = ("llava", "smolvlm", "gemma3", "qwen2_5_vl")
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_EYE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}MARK{% elif part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_PARTS_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:{% for part in m.content %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% elif part['type'] == 'image' %}MARK{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
"""As SmolVLM's and LLaVA's: a message that is a plain string says nothing to it."""


@cache
def tiny_vision(family: str = "llava") -> Path:
    """The folder of a tiny model, made once per process."""
    seed = 1 if family == "gemma3" else 0
    return make_vision(family, Path(tempfile.mkdtemp(prefix=f"tiny-{family}-")), seed=seed)


def make_vision(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a model of `family` with random weights and its processor into `folder`."""
    import torch
    from transformers import AutoModelForImageTextToText

    tokenizer = make_tokenizer()
    config, processor = _MAKERS[family](tokenizer)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    _liven(model)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _liven(model: Any) -> None:
    """Weights of the vision part large enough that what it sees decides what is written."""
    import torch

    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and any(word in name for word in ("vision", "visual", "projector", "connector")):
            torch.nn.init.normal_(parameter, std=0.25)


def _named(tokenizer: Any, **tokens: str) -> dict[str, int]:
    """Add special tokens under names that processors look for; their ids."""
    tokenizer._set_model_specific_special_tokens(tokens)
    tokenizer.add_tokens(list(tokens.values()), special_tokens=True)
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    ids = _named(tokenizer, image_token="<image>")
    tokenizer.chat_template = _PARTS_ONLY.replace("MARK", "<image>\n")
    eye = CLIPVisionConfig(**_EYE, image_size=28, patch_size=14, projection_dim=32)
    config = LlavaConfig(
        text_config=LlamaConfig(**_TEXT, vocab_size=VOCABULARY + 32),
        vision_config=eye,
        image_token_index=ids["image_token"],
        image_seq_length=4,
        vision_feature_layer=-1,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return config, LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


def _smolvlm(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import Idefics3Config, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    ids = _named(
        tokenizer,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    tokenizer.chat_template = _PARTS_ONLY.replace("MARK", "<image>")
    config = Idefics3Config(
        text_config=LlamaConfig(**_TEXT, vocab_size=VOCABULARY + 32),
        vision_config={**_EYE, "image_size": 56, "patch_size": 14},
        image_token_id=ids["image_token"],
        scale_factor=2,
        pad_token_id=0,
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, do_image_splitting=True
    )
    return config, Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=tokenizer.chat_template)


def _gemma3(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import Gemma3Config, Gemma3Processor, Gemma3TextConfig, SiglipVisionConfig
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    ids = _named(tokenizer, image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    tokenizer.chat_template = _TEMPLATE.replace("MARK", "<start_of_image>")
    text = {**_TEXT, "vocab_size": VOCABULARY + 32, "initializer_range": 0.02}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            **text, head_dim=16, sliding_window=24, query_pre_attn_scalar=16,
            tie_word_embeddings=False,
        ),
        vision_config=SiglipVisionConfig(**_EYE, image_size=56, patch_size=14, vision_use_head=False),
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return config, Gemma3Processor(images, tokenizer, image_seq_length=4, chat_template=tokenizer.chat_template)


def _qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from daemon.engines.transformers.processor import for_images

    ids = _named(
        tokenizer,
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    tokenizer.chat_template = _TEMPLATE.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>")
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, "vocab_size": VOCABULARY + 32, "rope_parameters": rope, "tie_word_embeddings": False},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        vision_start_token_id=ids["vision_start_token"],
        vision_end_token_id=ids["vision_end_token"],
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28 * 2, "longest_edge": 28 * 28 * 16})
    return config, for_images(Qwen2_5_VLProcessor)(images, tokenizer, chat_template=tokenizer.chat_template)


_MAKERS = {"llava": _llava, "smolvlm": _smolvlm, "gemma3": _gemma3, "qwen2_5_vl": _qwen2_5_vl}
