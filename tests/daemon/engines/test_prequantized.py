"""Checkpoints that were quantised before: loaded by their own configuration, or refused before weights are read."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.engines.base import Engine, LoadOptions
from daemon.engines.transformers import load_engine
from daemon.engines.transformers.engine import TransformersEngine
from daemon.engines.transformers.loader import load_model
from daemon.engines.transformers.packed import PackedRunner
from daemon.engines.transformers.prequantized import check_prequantized, stored_method
from fcd.errors import ModelLoadError
from tests.daemon.engines.harness import ask, nothing_held
from tests.tiny_models import make_tokenizer, tiny_model


def quantised(folder: Path, config: dict[str, Any]) -> Path:
    """A folder whose config.json says that its weights are quantised."""
    made = Path(shutil.copytree(tiny_model("llama"), folder))
    said = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**said, "quantization_config": config}))
    return made


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("awq", "pip install gptqmodel"),
        ("gptq", "pip install optimum gptqmodel"),
        ("compressed-tensors", "pip install compressed-tensors"),
        ("hqq", "pip install hqq"),
    ],
)
def test_a_missing_library_is_named_with_the_command(
    method: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from daemon.engines.transformers import prequantized

    monkeypatch.setattr(prequantized, "_importable", lambda name: False)
    folder = quantised(tmp_path / "m", {"quant_method": method, "bits": 4})
    stages: list[str] = []
    with pytest.raises(ModelLoadError, match="is not installed") as caught:
        load_model(LoadOptions(path=str(folder), device="cpu"), lambda stage, *_: stages.append(stage))
    assert words in caught.value.hint
    assert "weights" not in stages


def test_what_only_a_gpu_computes_is_refused_without_one(tmp_path: Path) -> None:
    folder = quantised(tmp_path / "m", {"quant_method": "fbgemm_fp8"})
    with pytest.raises(ModelLoadError, match="CUDA"):
        load_model(LoadOptions(path=str(folder), device="cpu"), lambda *_: None)


def test_a_method_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    folder = quantised(tmp_path / "m", {"quant_method": "abacus"})
    with pytest.raises(ModelLoadError, match="abacus"):
        load_model(LoadOptions(path=str(folder), device="cpu"), lambda *_: None)


def test_methods_are_read_from_every_kind_of_config() -> None:
    class Config:
        def __init__(self, stored: Any) -> None:
            self.quantization_config = stored

    assert stored_method(Config({"quant_method": "gptq"})) == "gptq"
    assert stored_method(Config({"load_in_4bit": True})) == "bitsandbytes"
    assert stored_method(Config({"bits": 3})) == "unknown"
    assert stored_method(Config(None)) == ""
    assert check_prequantized(Config(None), "cpu", "8bit") == ""
    assert check_prequantized(Config({"quant_method": "awq"}), "cpu", "", lambda name: True) == "awq"


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_checkpoints_run_as_they_are(bits: int, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(load_in_4bit=True, **four) if bits == 4 else BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model("qwen3"), quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    ids = list(range(5, 40))
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    want = out[0, len(ids) :].tolist()

    async def test(engine: Engine) -> None:
        assert isinstance(engine, TransformersEngine)
        assert engine.info.quantization == "bitsandbytes"
        runner = engine._core._runner
        assert isinstance(runner, PackedRunner)
        assert runner._lean is None
        answers = await asyncio.gather(*(ask(engine, ids, max_tokens=6) for _ in range(3)))
        assert all(answer.ids == want for answer in answers)
        await nothing_held(engine)

    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(tmp_path), device="cpu"), lambda *_: None)
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(main())
