"""int8 x int8 through packed weights: accuracy with and without outliers, company, whole models."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from daemon.engines.base import Engine, LoadOptions
from daemon.engines.transformers import quantizer
from daemon.engines.transformers.lean import build_lean
from daemon.engines.transformers.loader import LoadedModel, load_model, weight_bytes
from daemon.engines.transformers.lowbit import Int8Linear, quantize_rows
from daemon.engines.transformers.packed import lean_agrees, probe_layers
from daemon.engines.transformers.packed_int8 import int8_is_supported, pack_int8, packed_int8_product, unpack_int8
from daemon.engines.transformers.products import Product, merged
from fcd.builtin import builtin_path
from fcd.builtin.evaluate import questions
from fcd.builtin.generator.base import plain
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.words import word_pool
from tests.daemon.engines.harness import ask, with_engine
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(not int8_is_supported(), reason="x86 with AVX2 only")


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here and now decides nothing in these tests."""
    monkeypatch.setattr(quantizer, "packed_is_faster", lambda *_, **__: True)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def load(path: Path, quantization: str = "8bit") -> LoadedModel:
    return load_model(LoadOptions(path=str(path), device="cpu", quantization=quantization), lambda *_: None)


@pytest.mark.parametrize(("outlier", "exact", "bound"), [(0.0, False, 0.02), (50.0, False, 0.005), (0.0, True, 0.001)])
def test_only_rounding_is_lost(outlier: float, exact: bool, bound: float) -> None:
    """Beside the same weights in fp32. Rows with outliers, and `exact` ones, get 13 bits."""
    torch.manual_seed(0)
    codes, scale = quantize_rows(torch.randn(96, 256))
    x = torch.randn(40, 256)
    x[:, 7] += outlier
    want = x @ (codes.float() * scale[:, None]).T
    assert relative_error(packed_int8_product(x, pack_int8(codes, scale), exact=exact), want) < bound


def test_the_largest_values_do_not_saturate() -> None:
    codes, scale = torch.full((32, 512), 127, dtype=torch.int8), torch.ones(32)
    codes[1] = -127
    for sign in (1.0, -1.0):
        x = torch.full((3, 512), sign)
        want = x @ codes.float().T
        for exact in (False, True):
            assert torch.allclose(packed_int8_product(x, pack_int8(codes, scale), exact=exact), want, rtol=1e-5)


def test_company_changes_nothing_to_the_bit() -> None:
    torch.manual_seed(0)
    packed = pack_int8(*quantize_rows(torch.randn(96, 256)))
    x = torch.randn(24, 256)
    x[::3, 5] = 40.0
    together = packed_int8_product(x, packed)
    alone = torch.cat([packed_int8_product(x[i : i + 1], packed) for i in range(24)])
    assert torch.equal(together, alone)
    assert torch.equal(packed_int8_product(x[::3], packed), together[::3]), "all of them with outliers"


def test_zeros_nothing_and_no_numbers() -> None:
    packed = pack_int8(*quantize_rows(torch.randn(32, 64)))
    assert (packed_int8_product(torch.zeros(2, 64), packed) == 0).all()
    assert packed_int8_product(torch.zeros(0, 64), packed).shape == (0, 32)
    x = torch.randn(2, 64)
    x[1, 3] = float("nan")
    out = packed_int8_product(x, packed)
    assert out[0].isfinite().all()
    assert out[1].isnan().all()


def test_packing_can_be_undone() -> None:
    codes, scale = quantize_rows(torch.randn(48, 40))
    again, scales = unpack_int8(pack_int8(codes, scale))
    assert torch.equal(again, codes)
    assert torch.allclose(scales, scale)


def test_joined_layers_are_one_product_and_still_answer_each() -> None:
    torch.manual_seed(0)
    layers, wants = [], []
    x = torch.randn(5, 64)
    for outputs, has_bias in ((64, True), (32, False), (32, True)):
        weight = torch.randn(outputs, 64)
        layer = Int8Linear(64, outputs, bias=has_bias, dtype=torch.float32, transposed=False)
        if layer.bias is not None:
            layer.bias.data = torch.randn(outputs)
        layer.take(weight)
        layer.pack()
        layers.append(layer)
        wants.append(F.linear(x, weight, layer.bias))
    alone = [layer(x) for layer in layers]
    assert relative_error(torch.cat(alone, -1), torch.cat(wants, -1)) < 0.02
    product = merged(layers)
    assert product is not None
    assert torch.equal(product(x), torch.cat(alone, -1))
    assert all(torch.equal(layer(x), want) for layer, want in zip(layers, alone, strict=True))
    assert all(layer.packed is None for layer in layers)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2", "t5", "bart", "mixtral", "falcon"])
def test_models_are_close_and_small(family: str) -> None:
    small = load(tiny_model(family))
    full = load(tiny_model(family), "")
    assert any(isinstance(module, Int8Linear) and module.packed is not None for module in small.model.modules())
    ids = torch.arange(3, 60)[None]
    extra = {"decoder_input_ids": ids} if small.kind == "seq2seq" else {}
    outputs = []
    for loaded in (small, full):
        if loaded.kind == "packed":
            loaded.model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs.append(loaded.model(input_ids=ids, **extra).logits.float())
    assert float(torch.cosine_similarity(*outputs, dim=-1).mean()) > 0.96
    assert small.info.memory_bytes < 0.75 * full.info.memory_bytes


def test_the_lean_form_agrees_and_holds_nothing_twice() -> None:
    model = load(tiny_model("qwen2")).model
    memory = weight_bytes(model)
    device = torch.device("cpu")
    _, kinds = probe_layers(model, device)
    lean = build_lean(model, kinds)
    assert lean is not None
    assert lean_agrees(model, lean, device)
    assert weight_bytes(model) == memory


def test_a_requests_text_is_the_same_in_company() -> None:
    async def test(engine: Engine) -> None:
        prompts = [list(range(3 + i, 30 + i)) for i in range(4)]
        alone = [(await ask(engine, ids, max_tokens=6)).ids for ids in prompts]
        together = await asyncio.gather(*(ask(engine, ids, max_tokens=6) for ids in prompts))
        assert [each.ids for each in together] == alone

    with_engine("qwen3", test, quantization="8bit", device="cpu")


@pytest.mark.slow
def test_a_trained_model_chooses_the_same_tokens() -> None:
    folder = builtin_path("guide")
    tokenizer = load(folder).tokenizer
    asked = questions(word_pool(1), load_open_prompts(None)[1], 1)
    texts = [
        tokenizer.apply_chat_template(
            [*q.messages, {"role": "assistant", "content": plain(q.turn.answer)}], tokenize=False
        )
        for q in asked
    ]
    rows = [tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"] for text in texts]
    outputs: list[list[torch.Tensor]] = [[], []]
    for each, quantization in zip(outputs, ("8bit", ""), strict=True):
        model = load(folder, quantization).model
        model.set_attn_implementation("eager")
        with torch.no_grad():
            each += [model(input_ids=ids).logits[0] for ids in rows]
    small, full = (torch.cat(each) for each in outputs)
    assert len(full) > 800
    assert float(torch.cosine_similarity(small, full, dim=-1).mean()) > 0.999
    assert float((small.argmax(-1) == full.argmax(-1)).float().mean()) > 0.97


@pytest.mark.parametrize(("quantization", "agrees"), [("8bit", True), ("", False)])
def test_what_8_bits_round_differently_is_not_taken_for_another_computation(quantization: str, agrees: bool) -> None:
    """Logits that are a hundredth of their spread off, as those of a deep model in 8 bits are."""

    class Off:
        def __init__(self, product: Product) -> None:
            self._product = product

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            logits = self._product(x)
            return logits + 0.01 * logits.std(-1, keepdim=True)

        def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    model = load(tiny_model("llama"), quantization).model
    device = torch.device("cpu")
    _, kinds = probe_layers(model, device)
    lean = build_lean(model, kinds)
    assert lean is not None
    lean.adapt(lambda _, name, product: Off(product) if name == "head" else product)
    assert lean_agrees(model, lean, device) is agrees
