"""Packed 16-bit weights: layers, whole models in the lean form and in their own code, adapters, memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from daemon.engines.base import LoadOptions
from daemon.engines.transformers import load_engine, loader
from daemon.engines.transformers.half import HalfEmbedding, HalfLinear
from daemon.engines.transformers.lean import build_lean
from daemon.engines.transformers.loader import LoadedModel, computes, load_model, weight_bytes
from daemon.engines.transformers.number_format import NumberFormat
from daemon.engines.transformers.packed import lean_agrees, probe_layers
from daemon.engines.transformers.products import LowBit, Product, merged, single
from fcd.machine import compiles_kernels
from tests.daemon.engines.adapters import make_adapter
from tests.daemon.engines.harness import ask
from tests.daemon.engines.test_lora import mixed_batch_equals_merged_weights
from tests.tiny_models import make_model, tiny_model

pytestmark = pytest.mark.skipif(not compiles_kernels(), reason="no compiled products here")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here and now decides nothing in these tests."""

    def choose(folder: Any, config: Any, native: Any, wanted: torch.dtype | None) -> NumberFormat:
        plain = wanted == torch.float32
        return NumberFormat(wanted or torch.float32, packed=not plain)

    monkeypatch.setattr(loader, "_measured_format", choose)


def load(path: Path, dtype: str = "") -> LoadedModel:
    return load_model(LoadOptions(path=str(path), device="cpu", dtype=dtype), lambda *_: None)


def layer_of(
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    transposed: bool = False,
    stored: torch.dtype = torch.bfloat16,
) -> HalfLinear:
    outputs, inputs = weight.shape
    layer = HalfLinear(
        inputs, outputs, bias=bias is not None, dtype=torch.float32, transposed=transposed, stored=stored
    )
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    layer.take(weight.T.contiguous() if transposed else weight)
    return layer


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_compute_what_their_weights_say(transposed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 60).bfloat16().float(), torch.randn(96)
    layer = layer_of(weight, bias, transposed)
    for shape in ((60,), (3, 7, 60), (0, 60), (40, 60)):
        x = torch.randn(shape).to(dtype)
        want = F.linear(x.float(), weight, bias)
        got = layer(x)
        assert got.dtype == dtype
        assert torch.allclose(got.float(), want, atol=1e-4 if dtype == torch.float32 else 0.2, rtol=0.01)
    assert layer.unseen_bytes == 2 * 96 * 60
    assert layer.weight.shape == ((60, 96) if transposed else (96, 60))
    assert layer.weight.isnan().all(), "whoever multiplies by it will know"


@pytest.mark.parametrize(("stored", "value"), [(torch.bfloat16, 3e38), (torch.float16, 6e-8)])
def test_weights_keep_the_bits_of_their_checkpoint(stored: torch.dtype, value: float) -> None:
    weight = torch.randn(32, 48).to(stored).float()
    weight[3, 5] = torch.tensor(value).to(stored)
    panels = layer_of(weight, None, stored=stored).panels
    assert panels is not None
    assert torch.equal(panels.unpacked(), weight)


@pytest.mark.parametrize("odd", [False, True])
def test_joined_layers_are_one_product_and_still_answer_each(odd: bool) -> None:
    """Those that do not fill their panels are not joined."""
    torch.manual_seed(0)
    weights = [torch.randn(n, 48).bfloat16().float() for n in (64, 24 if odd else 32, 32)]
    biases = [torch.randn(64), None, torch.randn(32)]
    layers = [layer_of(weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    product = merged(layers)
    assert isinstance(product, LowBit) != odd
    assert product is not None

    def want(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    x, other = torch.randn(5, 48), torch.randn(5, 48)
    assert torch.allclose(product(x), torch.cat(want(x), -1), atol=1e-4)
    for order in ((x, x, x), (other, x, other)):
        for number, given in enumerate(order):
            assert torch.allclose(layers[number](given), want(given)[number], atol=1e-4)
    shaped = x.view(1, 5, 48)
    assert torch.allclose(layers[2](shaped)[0], want(x)[2], atol=1e-4)
    assert torch.allclose(layers[2](shaped * 2)[0], want(x * 2)[2], atol=1e-4), "asked alone, again and again"
    assert sum(layer.unseen_bytes for layer in layers) == 2 * 48 * (64 + 32 + 32), "full panels, nothing twice"


def test_a_sum_is_added_in_the_product() -> None:
    torch.manual_seed(0)
    weight, bias, x, residual = torch.randn(32, 48), torch.randn(32), torch.randn(5, 48), torch.randn(5, 32)
    product: Product | None = single(layer_of(weight, bias))
    assert product is not None
    before = residual.clone()
    assert torch.allclose(product.add(residual, x), before + F.linear(x, weight, bias), atol=0.05)
    assert torch.equal(residual, before)


@pytest.mark.parametrize(
    "family", ["qwen2", "gemma2", "gemma3_text", "gpt2", "t5", "bart", "mamba", "mixtral", "gpt_oss", "falcon"]
)
def test_models_compute_as_in_fp32_and_are_half_as_large(family: str) -> None:
    path = tiny_model(family, "bfloat16")
    small, full = load(path), load(path, "float32")
    assert small.info.dtype == "float32 (16-bit weights)"
    assert small.kind == full.kind
    ids = torch.arange(3, 60)[None]
    extra = {"decoder_input_ids": ids} if small.kind == "seq2seq" else {}
    outputs = []
    for loaded in (small, full):
        if loaded.kind == "packed":
            loaded.model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs.append(loaded.model(input_ids=ids, **extra).logits.float())
    spread = outputs[1].std()
    assert float((outputs[0] - outputs[1]).abs().max() / spread) < 1e-3
    kept = {"t5": 0.75, "mamba": 0.85, "gpt2": 0.8, "bart": 0.8}.get(family, 0.65)
    assert small.info.memory_bytes < kept * full.info.memory_bytes
    assert any(isinstance(module, HalfEmbedding) for module in small.model.modules())


def test_t5s_outputs_stay_in_fp32() -> None:
    model = load(tiny_model("t5", "bfloat16")).model
    outputs = [module for name, module in model.named_modules() if name.endswith(".wo")]
    assert outputs
    assert {type(module) for module in outputs} == {torch.nn.Linear}


@pytest.mark.parametrize("dtype", ["", "bfloat16", "float16"])
def test_the_lean_form_agrees_and_the_models_own_code_still_does(dtype: str) -> None:
    model = load(tiny_model("qwen3", "bfloat16"), dtype).model
    memory = weight_bytes(model)
    _, kinds = probe_layers(model, CPU)
    lean = build_lean(model, kinds)
    assert lean is not None
    assert lean_agrees(model, lean, CPU)
    assert weight_bytes(model) == memory, "nothing is held twice"


def test_greedy_texts_are_those_of_fp32() -> None:
    path = str(tiny_model("llama", "bfloat16"))
    prompts = [list(range(3 + i, 40 + 2 * i)) for i in range(5)]

    async def texts(dtype: str) -> list[list[int]]:
        engine = await load_engine(LoadOptions(path=path, device="cpu", dtype=dtype), lambda *_: None)
        try:
            return [a.ids for a in await asyncio.gather(*(ask(engine, ids, max_tokens=12) for ids in prompts))]
        finally:
            await engine.close()

    assert asyncio.run(texts("")) == asyncio.run(texts("float32"))


def test_adapters_over_packed_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_measured_format", lambda *_: NumberFormat(torch.float32, packed=True))
    path = tiny_model("llama", "bfloat16")
    adapters = {
        "tables": make_adapter(tmp_path / "a", path, seed=1, tables=True),
        "layers": make_adapter(tmp_path / "b", path, seed=2),
    }
    mixed_batch_equals_merged_weights(path, adapters)


def test_a_model_that_multiplies_by_its_weights_itself_is_loaded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model("llama", "bfloat16")
    model = load(path).model
    assert computes(model)

    def by_itself(self: HalfLinear, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight)

    with monkeypatch.context() as patched:
        patched.setattr(HalfLinear, "forward", by_itself)
        assert not computes(model)
        loaded = load(path)
    assert loaded.info.dtype == "float32"
    assert loaded.kind == "packed"
    assert not any(isinstance(module, HalfLinear) for module in loaded.model.modules())


def test_a_checkpoint_without_some_weights_is_loaded_plainly(tmp_path: Path) -> None:
    """transformers makes up what is missing, with a warning; a packed layer could not."""
    from safetensors.torch import load_file, save_file

    path = make_model("llama", tmp_path, dtype="bfloat16", tie_word_embeddings=False)
    file = next(path.glob("*.safetensors"))
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    assert load(path).info.dtype == "float32"
