"""The compiled step against the lean form's operators, and against itself in other company."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.engines.base import GenerationRequest, LoadOptions, SamplingParams
from daemon.engines.transformers import build, load_engine, loader, quantizer
from daemon.engines.transformers.attention import DecodeGroup, PrefillChunk, Step
from daemon.engines.transformers.kv_store import LayerSpec
from daemon.engines.transformers.lean import LeanDecoder, build_lean
from daemon.engines.transformers.loader import load_model
from daemon.engines.transformers.number_format import NumberFormat
from daemon.engines.transformers.packed import PackedRunner, probe_layers
from daemon.engines.transformers.stepping import DecoderStep, Slate, build_step, step_agrees, trial_time
from fcd.machine import compiles_kernels
from tests.daemon.engines.adapters import make_adapter
from tests.daemon.engines.harness import ask, collect, nothing_held
from tests.tiny_models import make_model, tiny_model

pytestmark = pytest.mark.skipif(not compiles_kernels(), reason="no compiled products here")
PACKED = NumberFormat(torch.float32, packed=True)


@pytest.fixture(autouse=True)
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured here and now decides nothing in these tests."""
    monkeypatch.setattr(quantizer, "panels_are_faster", lambda *_: True)
    monkeypatch.setattr(loader, "_measured_format", lambda *_: PACKED)


@cache
def decoder(family: str, kind: str) -> tuple[LeanDecoder, list[LayerSpec]]:
    dtype, quantization = {
        "bf16": ("bfloat16", ""),
        "fp16": ("float16", ""),
        "int8": ("float32", "8bit"),
        "fp32": ("float32", ""),
    }[kind]
    model = load_model(
        LoadOptions(path=str(tiny_model(family, dtype)), device="cpu", quantization=quantization), lambda *_: None
    ).model
    layers, kinds = probe_layers(model, torch.device("cpu"))
    lean = build_lean(model, kinds)
    assert lean is not None
    return lean, layers


def step_of(family: str, kind: str, stored: torch.dtype = torch.float32) -> tuple[DecoderStep, LeanDecoder, Any]:
    lean, layers = decoder(family, kind)
    layers = [replace(layer, dtype=stored) for layer in layers]
    step = build_step(lean, layers)
    assert step is not None
    return step, lean, layers


class Texts:
    """Random ones, each in a slot of its own, decoded side by side."""

    def __init__(self, layers: list[LayerSpec], lengths: list[int], seed: int = 0) -> None:
        chance = random.Random(seed)
        self.ids = [[chance.randrange(512) for _ in range(length)] for length in lengths]
        self.slots = sorted(chance.sample(range(len(lengths) + 3), len(lengths)))
        self.store = Slate(layers, len(lengths) + 3, max(lengths))

    def decode(self, step: DecoderStep) -> list[list[torch.Tensor]]:
        """Each text's logits at each position; shorter texts end sooner."""
        found: list[list[torch.Tensor]] = [[] for _ in self.ids]
        for at in range(max(map(len, self.ids))):
            rows = [row for row, text in enumerate(self.ids) if at < len(text)]
            group = DecodeGroup(0, 0, [self.slots[row] for row in rows], [at] * len(rows))
            with torch.inference_mode():
                logits = step.logits(torch.tensor([self.ids[row][at] for row in rows]), [group], self.store)
            for row, one in zip(rows, logits, strict=True):
                found[row].append(one)
        return found

    def expected(self, lean: LeanDecoder, row: int) -> torch.Tensor:
        count = len(self.ids[row])
        step = Step([], [PrefillChunk(0, 0, 0, 0, count)], None)
        with torch.inference_mode():
            return lean.logits(torch.tensor(self.ids[row]), torch.arange(count), None, count - 1, step)


@pytest.mark.parametrize("kind", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_steps_give_the_logits_of_the_lean_form(family: str, kind: str, threads: int) -> None:
    """Mistral's window is shorter than the longest text."""
    step, lean, layers = step_of(family, kind)
    texts = Texts(layers, [40, 1, 7, 29, 12, 12, 3, 22])
    for row, got in enumerate(texts.decode(step)):
        want = texts.expected(lean, row)
        bound = 0.1 if kind == "int8" else 2e-4
        assert float((torch.stack(got) - want).abs().max() / want.std()) < bound, row


def test_keys_and_values_in_fp16(threads: int) -> None:
    step, lean, layers = step_of("qwen3", "bf16", torch.float16)
    texts = Texts(layers, [30, 11])
    for row, got in enumerate(texts.decode(step)):
        want = texts.expected(lean, row)
        assert float((torch.stack(got) - want).abs().mean() / want.std()) < 0.01


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_company_changes_nothing_to_the_bit(kind: str) -> None:
    step, _, layers = step_of("qwen2", kind)
    lengths = [17, 30, 5, 9, 30, 21, 2, 30, 13]
    together = Texts(layers, lengths)
    found = together.decode(step)
    for row, text in enumerate(together.ids):
        alone = Texts(layers, [len(text)])
        alone.ids = [text]
        assert torch.equal(torch.stack(alone.decode(step)[0]), torch.stack(found[row])), row


def test_rows_of_several_size_classes_and_a_slab_that_moved() -> None:
    step, lean, layers = step_of("llama", "bf16")
    small, large = Texts(layers, [20, 20], seed=1), Texts(layers, [20], seed=2)
    store, other = Slate(layers, 5, 32), Slate(layers, 2, 64)
    store.keys += other.keys
    store.values += other.values
    got = []
    for at in range(20):
        if at == 9:
            store.keys[1] = [keys.clone() for keys in store.keys[1]]
            store.version += 1
        ids = torch.tensor([small.ids[0][at], small.ids[1][at], large.ids[0][at]])
        groups = [DecodeGroup(0, 0, [1, 4], [at, at]), DecodeGroup(1, 2, [1], [at])]
        with torch.inference_mode():
            got.append(step.logits(ids, groups, store))
    logits = torch.stack(got, 1)
    for row, (texts, own) in enumerate([(small, 0), (small, 1), (large, 0)]):
        assert torch.allclose(logits[row], texts.expected(lean, own), atol=1e-3), row


def test_a_store_is_not_taken_for_one_that_was_there_before() -> None:
    """Trials come and go, and a new one may have the old one's address."""
    step, _, layers = step_of("llama", "bf16")
    for rows in (2, 8, 2, 16, 1) * 20:
        trial_time(step, layers, rows)
        kept = step._slabs
        assert kept is not None
        assert list(kept[2])[:2] == [kept[0].keys[0][0].data_ptr(), kept[0].values[0][0].data_ptr()]


def test_a_row_that_is_no_number_spoils_no_other() -> None:
    step, _, layers = step_of("llama", "int8")
    texts = Texts(layers, [6, 6, 6])
    clean = texts.decode(step)
    for keys in texts.store.keys[0]:
        keys[texts.slots[1], :, 0] = float("nan")
    group = DecodeGroup(0, 0, texts.slots, [5] * 3)
    with torch.inference_mode():
        out = step.logits(torch.tensor([text[5] for text in texts.ids]), [group], texts.store)
    assert out[1].isnan().all()
    assert torch.equal(out[0], clean[0][5])
    assert torch.equal(out[2], clean[2][5])


def test_a_width_that_fills_no_panels_has_none(tmp_path: Path) -> None:
    path = make_model("llama", tmp_path, dtype="bfloat16", hidden_size=40, head_dim=16)
    model = load_model(LoadOptions(path=str(path), device="cpu"), lambda *_: None).model
    layers, kinds = probe_layers(model, torch.device("cpu"))
    lean = build_lean(model, kinds)
    assert lean is not None
    assert build_step(lean, layers) is None


def test_a_neighbour_with_an_adapter_changes_nothing_of_how_a_row_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model("llama", "bfloat16")
    adapter = str(make_adapter(tmp_path, path, seed=3))
    by_operators: list[bool] = []
    packed = PackedRunner._packed

    def spy(self: PackedRunner, plan: Any) -> Any:
        by_operators.extend(bool(work.sequence.adapter) for work in plan.decode)
        return packed(self, plan)

    monkeypatch.setattr(PackedRunner, "_packed", spy)

    async def main() -> None:
        options = LoadOptions(path=str(path), device="cpu", lora_modules={"other": adapter})
        engine = await load_engine(options, lambda *_: None)

        async def ids(name: str) -> list[int]:
            params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=16)
            request = GenerationRequest("r", list(range(3, 40)), params, adapter=name)
            return (await collect(engine, request))[0].ids

        try:
            alone = [await ids(""), await ids("other")]
            assert await asyncio.gather(ids(""), ids("other")) == alone
            assert alone[0] != alone[1]
        finally:
            await engine.close()

    asyncio.run(main())
    assert by_operators
    assert all(by_operators)


def test_other_decoders_have_none() -> None:
    lean, layers = decoder("llama", "fp32")
    assert build_step(lean, layers) is None, "its weights are not packed"
    packed, layers = decoder("llama", "bf16")
    assert build_step(packed, layers) is not None
    assert build_step(packed, [replace(layer, dtype=torch.bfloat16) for layer in layers]) is None
    assert build_step(packed, [replace(layers[0], heads=1), *layers[1:]]) is None
    before = packed.layers[1].activation
    packed.layers[1].activation = torch.nn.functional.gelu
    try:
        assert build_step(packed, layers) is None
    finally:
        packed.layers[1].activation = before


def test_a_step_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    step, lean, layers = step_of("llama", "bf16")
    assert step_agrees(step, lean, layers, 0.02)
    right = DecoderStep.logits

    def wrong(self: DecoderStep, *arguments: Any) -> torch.Tensor:
        logits = right(self, *arguments)
        return logits + 0.1 * logits.std(-1, keepdim=True)

    monkeypatch.setattr(DecoderStep, "logits", wrong)
    assert not step_agrees(step, lean, layers, 0.02)
    loaded = load_model(LoadOptions(path=str(tiny_model("llama", "bfloat16")), device="cpu"), lambda *_: None)
    assert build._stepper(lean, layers, loaded) is None


@pytest.mark.parametrize("quantization", ["", "8bit"])
def test_engines_decode_by_it_and_prompts_beside_change_no_text(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    packed = PackedRunner._packed

    def spy(self: PackedRunner, plan: Any) -> Any:
        batches.append(len(plan.decode))
        return packed(self, plan)

    monkeypatch.setattr(PackedRunner, "_packed", spy)
    prompts = [list(range(3 + i, 200 + 40 * i)) for i in range(6)]

    async def texts(*, together: bool) -> list[list[int]]:
        options = LoadOptions(path=str(tiny_model("llama", "bfloat16")), device="cpu", quantization=quantization)
        engine = await load_engine(options, lambda *_: None)
        try:
            if together:
                answers = await asyncio.gather(*(ask(engine, ids, max_tokens=12) for ids in prompts))
            else:
                answers = [await ask(engine, ids, max_tokens=12) for ids in prompts]
            await nothing_held(engine)
            return [answer.ids for answer in answers]
        finally:
            await engine.close()

    assert asyncio.run(texts(together=True)) == asyncio.run(texts(together=False))
    assert batches
    assert not any(batches), "rows that decode are never computed with prompts"
