"""8-bit and 4-bit layers: accuracy, memory, and whole models that load with them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch

from daemon.engines.base import Engine, LoadOptions
from daemon.engines.transformers import quantizer
from daemon.engines.transformers.experts import PARTS, LowBitExperts, is_stacked
from daemon.engines.transformers.loader import load_model, weight_bytes
from daemon.engines.transformers.lowbit import (
    PRODUCTS,
    WHOLE_INPUTS,
    Int4Linear,
    Int8Linear,
    LowBitLinear,
    choose_kernels,
    measure_kernels,
    quantize_rows,
)
from tests.daemon.engines.harness import ask, with_engine
from tests.tiny_models import tiny_model

FLOAT = {"dtype": torch.float32, "transposed": False}


@pytest.fixture(autouse=True)
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed form has tests of its own (test_panels); here measuring must not choose it."""
    monkeypatch.setattr(quantizer, "panels_are_faster", lambda *_: False)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda p: p.__name__)
@pytest.mark.parametrize("rows", [1, 5, 40])
def test_every_product_is_the_matrix_product(product: Any, rows: int) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64), torch.randn(rows, 64)
    codes, scale = quantize_rows(weight)
    assert relative_error(codes.float() * scale[:, None], weight) < 0.008
    assert relative_error(product(x, codes, scale), x @ weight.T) < 0.02


@pytest.mark.parametrize("transposed", [False, True])
def test_layers_hold_what_they_are_given(transposed: bool) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 64), torch.randn(96), torch.randn(3, 7, 64)
    want = torch.nn.functional.linear(x, weight, bias)
    for kind, bound in ((Int8Linear, 0.02), (Int4Linear, 0.12)):
        layer = kind(64, 96, bias=True, dtype=torch.float32, transposed=transposed)
        layer.bias.data = bias
        layer.take(weight.T.contiguous() if transposed else weight)
        assert layer(x).shape == want.shape
        assert relative_error(layer(x), want) < bound
        assert layer.weight.dtype == torch.float32
        assert layer.codes.nbytes <= weight.numel() / (1 if kind is Int8Linear else 2)


def test_rows_of_zeros_stay_zero() -> None:
    layer = Int8Linear(64, 32, bias=False, **FLOAT)
    layer.take(torch.zeros(32, 64))
    assert (layer(torch.randn(2, 64)) == 0).all()


def test_the_fastest_product_is_chosen_for_each_number_of_rows() -> None:
    packed, integer, dequantised = PRODUCTS
    tried: list[tuple[Any, int]] = []

    def time_of(product: Any, rows: int) -> float:
        tried.append((product, rows))
        return {packed: 1.0 * rows, integer: 100.0 * rows, dequantised: 6.0 + 0.5 * rows}[product]

    kernels = choose_kernels(time_of)
    assert [kernels.product(n) for n in (1, 4, 8)] == [packed] * 3
    assert [kernels.product(n) for n in (9, 16, 10**6)] == [dequantised] * 3
    assert [rows for product, rows in tried if product is integer] == [1]


def test_a_product_that_does_not_work_here_is_not_chosen() -> None:
    kernels = choose_kernels(lambda product, rows: 1.0 if product is PRODUCTS[2] else float("inf"))
    assert kernels.product(1) is kernels.product(1000) is PRODUCTS[2]


def test_measuring_gives_a_product_for_any_number_of_rows() -> None:
    kernels = measure_kernels(64, 64, torch.float32, torch.device("cpu"))
    assert {kernels.product(n) for n in (1, 33, 10**6)} <= set(PRODUCTS)


@pytest.mark.parametrize(
    "family", ["llama", "gemma3_text", "gpt2", "t5", "bart", "mamba", "falcon", "mixtral", "gpt_oss"]
)
def test_a_model_in_8_bit_is_close_and_smaller(family: str) -> None:
    path = str(tiny_model(family))
    stages: list[tuple[str, float, float]] = []
    small = load_model(LoadOptions(path=path, quantization="8bit"), lambda *p: stages.append(p))
    full = load_model(LoadOptions(path=path), lambda *p: None)
    ids = torch.arange(3, 60)[None]
    extra = {"decoder_input_ids": ids} if small.kind == "seq2seq" else {}
    outputs = []
    for loaded in (small, full):
        if loaded.kind == "packed":
            loaded.model.set_attn_implementation("eager")
        with torch.no_grad():
            outputs.append(loaded.model(input_ids=ids, **extra).logits.float())
    assert float(torch.cosine_similarity(*outputs, dim=-1).mean()) > 0.96
    assert weight_bytes(small.model) < 0.75 * weight_bytes(full.model)
    assert small.info.quantization == "8bit"
    weights = [p for p in stages if p[0] == "weights"]
    assert weights[-1][1] == weights[-1][2] > 0
    assert [p[1] for p in weights] == sorted(p[1] for p in weights)


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_a_quantised_engine_answers_the_same_in_company(quantization: str) -> None:
    async def test(engine: Engine) -> None:
        prompts = [list(range(3 + i, 30 + i)) for i in range(4)]
        alone = [(await ask(engine, ids, max_tokens=6)).ids for ids in prompts]
        together = await asyncio.gather(*(ask(engine, ids, max_tokens=6) for ids in prompts))
        # Kernels differ with the number of rows, so near ties may fall otherwise: most must be equal.
        assert sum(a == b.ids for a, b in zip(alone, together, strict=True)) >= 2
        assert engine.info.memory_bytes < 400_000

    with_engine("qwen3", test, quantization=quantization)


@pytest.mark.parametrize(("family", "bits"), [("mixtral", 8), ("mixtral", 4), ("gpt_oss", 8)])
def test_stacked_experts_compute_what_they_did(family: str, bits: int) -> None:
    """GPT-OSS's are transposed, interleaved and have biases; Mixtral's are plain."""
    from transformers import AutoModelForCausalLM

    def make(inputs: int, outputs: int, dtype: torch.dtype, transposed: bool) -> LowBitLinear:
        kind = Int8Linear if bits == 8 else Int4Linear
        return kind(inputs, outputs, bias=False, dtype=dtype, transposed=transposed)

    model = AutoModelForCausalLM.from_pretrained(tiny_model(family)).eval()
    original = next(module for module in model.modules() if is_stacked(module))
    replaced = LowBitExperts(original, make)
    for name, parameter in original.named_parameters(recurse=False):
        if name in PARTS:
            replaced.take(name, parameter.data)
        else:
            setattr(replaced, name, parameter)
    torch.manual_seed(0)
    hidden, weights = torch.randn(9, 64), torch.rand(9, 2)
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(9)])
    with torch.no_grad():
        want, got = original(hidden, chosen, weights), replaced(hidden, chosen, weights)
    assert relative_error(got, want) < (0.03 if bits == 8 else 0.25)
    assert replaced.loaded
    held = sum(buffer.nbytes for buffer in replaced.buffers())
    assert held < sum(p.nbytes for n, p in original.named_parameters() if n in PARTS) * (0.3 if bits == 8 else 0.2)


@pytest.mark.parametrize(
    ("family", "quantization", "share"),
    [("mixtral", "8bit", 0.3), ("mixtral", "4bit", 0.2), ("t5", "8bit", 0.3), ("t5", "4bit", 0.22)],
)
def test_experts_and_the_outputs_of_t5_are_small_too(family: str, quantization: str, share: float) -> None:
    path = str(tiny_model(family))
    small = load_model(LoadOptions(path=path, quantization=quantization), lambda *p: None)
    full = load_model(LoadOptions(path=path), lambda *p: None)
    assert weight_bytes(small.model) < share * weight_bytes(full.model)


def test_what_goes_into_t5s_outputs_is_never_rounded_to_int8() -> None:
    model = load_model(LoadOptions(path=str(tiny_model("t5")), quantization="4bit"), lambda *p: None).model
    layers = [module for name, module in model.named_modules() if name.endswith(".wo")]
    assert layers
    for layer in layers:
        assert isinstance(layer, Int8Linear)
        assert {layer.kernels.product(rows) for rows in (1, 8, 64, 1000)} <= set(WHOLE_INPUTS)
