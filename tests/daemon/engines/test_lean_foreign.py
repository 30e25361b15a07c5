"""The lean forward over bitsandbytes' layers, which run on the CPU too."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.engines.transformers import attention
from daemon.engines.transformers.lean import build_lean
from daemon.engines.transformers.packed import lean_agrees, probe_layers
from tests.tiny_models import make_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.mark.parametrize(
    ("options", "waits"),
    [
        ({"load_in_8bit": True}, True),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}, False),
    ],
)
def test_lean_over_bitsandbytes_agrees(tmp_path: Path, options: dict[str, Any], waits: bool) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    attention.register()
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.06}
    folder = make_model("qwen3", tmp_path, dtype="bfloat16", **shape)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**options),
        attn_implementation=attention.NAME,
        device_map={"": "cpu"},
    ).eval()
    device = torch.device("cpu")
    lean = build_lean(model, probe_layers(model, device)[1])
    assert lean is not None
    assert lean.waits == waits
    assert lean_agrees(model, lean, device)
