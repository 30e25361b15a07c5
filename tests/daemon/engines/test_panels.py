"""Compiled products with packed weights: accuracy with and without outliers, company, whole models in 8 bits."""

from __future__ import annotations

import asyncio
import mmap
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from daemon.engines.base import Engine, LoadOptions
from daemon.engines.transformers import loader, quantizer
from daemon.engines.transformers.kernels import panels
from daemon.engines.transformers.kernels.multiplying import Multiplier, multiplier
from daemon.engines.transformers.kernels.panels import Panels, joined, pack
from daemon.engines.transformers.lean import build_lean
from daemon.engines.transformers.loader import LoadedModel, load_model, weight_bytes
from daemon.engines.transformers.lowbit import Int8Linear, LowBitTable
from daemon.engines.transformers.number_format import NumberFormat
from daemon.engines.transformers.packed import lean_agrees, probe_layers
from daemon.engines.transformers.products import Product, merged
from fcd.builtin import builtin_path
from fcd.builtin.evaluate import questions
from fcd.builtin.generator.base import plain
from fcd.builtin.generator.refusal import load_open_prompts
from fcd.builtin.generator.words import word_pool
from fcd.machine import compiles_kernels
from tests.daemon.engines.harness import ask, with_engine
from tests.tiny_models import tiny_model

pytestmark = pytest.mark.skipif(not compiles_kernels(), reason="no compiled products here")
KINDS = ["bf16", "fp16", "int8"]


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here and now decides nothing in these tests."""
    monkeypatch.setattr(quantizer, "panels_are_faster", lambda *_: True)


def multiply(x: torch.Tensor, weights: Panels) -> torch.Tensor:
    found = multiplier(weights.kind)
    assert found is not None
    return found(x, weights)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


def load(path: Path, quantization: str = "8bit") -> LoadedModel:
    return load_model(LoadOptions(path=str(path), device="cpu", quantization=quantization), lambda *_: None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("columns", "depth"), [(96, 256), (40, 53), (5, 1), (16, 2), (2051, 130)])
def test_products_are_those_of_the_weights(kind: str, columns: int, depth: int, threads: int) -> None:
    torch.manual_seed(0)
    weights = pack(torch.randn(columns, depth), kind)
    for rows in (*range(14), 25):
        x = torch.randn(rows, depth + 3)[:, :depth]
        got = multiply(x, weights)
        assert got.shape == (rows, columns)
        want = x.double() @ weights.unpacked().double().T
        assert torch.allclose(got.double(), want, atol=3e-4 + 1e-5 * depth, rtol=1e-4), rows


@pytest.mark.parametrize("outlier", [0.0, 50.0, 1000.0])
def test_only_rounding_the_weights_counts_in_8_bits(outlier: float) -> None:
    """A row keeps 11 bits or more beside its largest value."""
    torch.manual_seed(0)
    weights, x = pack(torch.randn(96, 256), "int8"), torch.randn(40, 256)
    x[:, 7] += outlier
    assert relative_error(multiply(x, weights), x @ weights.unpacked().T) < 5e-4


@pytest.mark.parametrize("depth", [512, 20_000])
def test_the_largest_values_do_not_overflow(depth: int) -> None:
    weight = torch.ones(32, depth)
    weight[1] = -1
    weights = pack(weight, "int8")
    for sign in (1.0, -1.0):
        x = torch.full((3, depth), sign)
        assert torch.allclose(multiply(x, weights), x @ weight.T, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_company_changes_nothing_to_the_bit(kind: str) -> None:
    torch.manual_seed(0)
    weights = pack(torch.randn(96, 257), kind)
    x = torch.randn(24, 257)
    x[::3, 5] = 40.0
    together = multiply(x, weights)
    assert torch.equal(together, torch.cat([multiply(x[i : i + 1], weights) for i in range(24)]))
    for count in range(2, 24):
        assert torch.equal(multiply(x[:count], weights), together[:count]), count


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_nothing_and_no_numbers(kind: str) -> None:
    weights = pack(torch.randn(32, 64), kind)
    assert (multiply(torch.zeros(2, 64), weights) == 0).all()
    for bad in (float("nan"), float("inf")):
        x = torch.randn(3, 64)
        x[1, 3] = bad
        out = multiply(x, weights)
        assert out[[0, 2]].isfinite().all()
        assert not out[1].isfinite().any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("columns", "depth"), [(48, 40), (21, 33), (2051, 260)])
def test_packing_can_be_undone(kind: str, columns: int, depth: int) -> None:
    torch.manual_seed(0)
    stored = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind, torch.float32)
    weight = torch.randn(columns, depth).to(stored).float()
    again = pack(weight.to(stored), kind).unpacked()
    if kind == "int8":
        assert ((again - weight).abs().amax(1) <= weight.abs().amax(1) / 253).all(), "half a step"
    else:
        assert torch.equal(again, weight)


def test_panels_are_joined_where_they_are_full() -> None:
    torch.manual_seed(0)
    parts = [pack(torch.randn(n, 30), "int8") for n in (32, 16)]
    whole = joined(parts)
    assert whole is not None
    assert torch.equal(whole.unpacked(), torch.cat([part.unpacked() for part in parts]))
    assert joined([parts[0], pack(torch.randn(16, 30), "bf16")]) is None
    assert joined([pack(torch.randn(20, 30), "int8"), parts[0]]) is None


def test_the_system_may_have_no_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(mmap.mmap):
        def madvise(self, *_: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(panels.mmap, "mmap", Plain)
    weight = torch.randn(40, 30).bfloat16()
    assert torch.equal(pack(weight, "bf16").unpacked(), weight.float())


def test_tables_are_as_long_as_the_kernels_say() -> None:
    """Their modules cannot be imported where there is no numba, so the lengths stand twice."""
    from daemon.engines.transformers import stepping
    from daemon.engines.transformers.kernels import attending, compiling, decode_attention, decoder_step, multiplying
    from daemon.engines.transformers.kernels import products as kernel

    assert multiplying._SIZE == kernel.SIZE
    assert attending._SIZE == decode_attention.SIZE
    assert (stepping._FIXED, stepping._STEP) == (decoder_step.ROWS, decoder_step.NORM)
    assert stepping._MEETING == compiling.MEETING


def test_each_kernel_and_kind_is_kept_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.engines.transformers.kernels import compiling

    monkeypatch.setattr(compiling, "_compiled_folder", lambda: tmp_path)
    monkeypatch.setattr(compiling.config, "CACHE_DIR", "")
    for name in ("products-bf16", "products-int8"):
        compiling.keep_in(name)
        assert Path(compiling.config.CACHE_DIR) == tmp_path / name
        assert (tmp_path / name).is_dir()


def test_a_product_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Multiplier, "__call__", lambda self, x, weights: torch.zeros(len(x), weights.columns))
    assert multiplier.__wrapped__("bf16") is None


def test_joined_layers_are_one_product_and_still_answer_each() -> None:
    torch.manual_seed(0)
    layers, wants = [], []
    x = torch.randn(5, 64)
    for outputs, has_bias in ((64, True), (32, False), (32, True)):
        weight = torch.randn(outputs, 64)
        layer = Int8Linear(64, outputs, bias=has_bias, dtype=torch.float32, transposed=False, packs=True)
        if layer.bias is not None:
            layer.bias.data = torch.randn(outputs)
        layer.take(weight)
        layers.append(layer)
        wants.append(F.linear(x, weight, layer.bias))
    alone = [layer(x) for layer in layers]
    assert relative_error(torch.cat(alone, -1), torch.cat(wants, -1)) < 0.02
    product = merged(layers)
    assert product is not None
    assert torch.equal(product(x), torch.cat(alone, -1))
    assert all(torch.equal(layer(x), want) for layer, want in zip(layers, alone, strict=True))
    assert all(layer.panels is None for layer in layers)


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "gpt2", "t5", "bart", "mixtral", "falcon"])
def test_models_are_close_and_small(family: str) -> None:
    small = load(tiny_model(family))
    full = load(tiny_model(family), "")
    assert any(isinstance(module, Int8Linear) and module.panels is not None for module in small.model.modules())
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


@pytest.mark.parametrize(("family", "quantization"), [("qwen2", "8bit"), ("t5", "8bit"), ("qwen2", "")])
def test_an_embedding_reads_the_panels_of_a_tied_output_layer(
    family: str, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_measured_format", lambda *_: NumberFormat(torch.float32, packed=True))
    model = load(tiny_model(family, "float32" if quantization else "bfloat16"), quantization).model
    assert model.config.tie_word_embeddings
    tables = [module for module in model.modules() if isinstance(module, LowBitTable)]
    shared = model.get_output_embeddings().panels
    assert tables
    assert shared is not None
    assert all(table.panels is shared and table.unseen_bytes == 0 for table in tables)
    assert not any(True for table in tables for _ in table.buffers())


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
