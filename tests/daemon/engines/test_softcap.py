"""Models that cap their attention scores: SDPA, which transformers up to 5.17 takes for them, leaves the cap out."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.engine_cuda import reference_model
from daemon.engines.base import LoadOptions
from daemon.engines.transformers import load_engine
from daemon.engines.transformers.families import is_softcapped
from tests.daemon.engines.harness import ask
from tests.tiny_models import VOCABULARY, make_tokenizer, tiny_model


def make_t5gemma(folder: Path) -> Path:
    """An encoder-decoder model with a soft cap low enough to change what it answers."""
    from transformers import AutoModelForSeq2SeqLM, T5GemmaConfig

    side: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 24,
        "attn_logit_softcapping": 2.0,
    }
    config = T5GemmaConfig(
        encoder=dict(side), decoder=dict(side), vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=2, pad_token_id=0,
        decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    assert is_softcapped(config)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def as_transformers_5_17(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model classes said that SDPA would do."""
    from transformers import Gemma2PreTrainedModel, T5GemmaPreTrainedModel

    for kind in (Gemma2PreTrainedModel, T5GemmaPreTrainedModel):
        monkeypatch.setattr(kind, "_supports_sdpa", True)


def test_an_encoder_decoder_model_keeps_its_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSeq2SeqLM

    folder = make_t5gemma(tmp_path)
    reference = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
    as_transformers_5_17(monkeypatch)
    rng = random.Random(3)
    prompts = [[rng.randrange(3, VOCABULARY) for _ in range(n)] for n in (3, 50, 100)]

    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(folder), dtype="float32"), lambda *progress: None)
        try:
            answers = await asyncio.gather(*(ask(engine, ids, max_tokens=30) for ids in prompts))
        finally:
            await engine.close()
        for ids, answer in zip(prompts, answers, strict=True):
            wanted = reference.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=30,
                do_sample=False, num_beams=1, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            assert answer.ids == wanted[0].tolist()[1:]

    asyncio.run(main())


def test_what_the_engine_is_measured_against_keeps_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    as_transformers_5_17(monkeypatch)
    model = reference_model(tiny_model("gemma2"), torch.float32)
    assert model.config._attn_implementation == "eager"
    with torch.inference_mode():
        ids = torch.arange(3, 40)[None]
        capped = model(ids).logits
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        assert float((capped - model(ids).logits).abs().max()) > 0.05


def test_only_caps_of_scores_count() -> None:
    from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, T5Config

    assert is_softcapped(Gemma2Config())
    assert not any(is_softcapped(config()) for config in (Gemma3TextConfig, LlamaConfig, T5Config))
