"""LoRA adapters: mixtures of them in one batch against merged weights, what is refused, and what is never shared."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from daemon.engines.base import Engine, GenerationRequest, LoadOptions, SamplingParams
from daemon.engines.transformers import build, load_engine
from daemon.engines.transformers.adapter_files import read_adapters
from daemon.engines.transformers.engine import TransformersEngine
from daemon.engines.transformers.lora import LoraBatch, Site, applied
from fcd.errors import ModelLoadError
from tests.daemon.engines.adapters import make_adapter, merged_answer, merged_model
from tests.daemon.engines.harness import collect, nothing_held
from tests.tiny_models import VOCABULARY, make_model, tiny_model

COUNT = 12
SOME = ("v_proj", "up_proj", "c_fc", "c_attn")


def run(path: Path, adapters: Mapping[str, Path], test: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        modules = {name: str(folder) for name, folder in adapters.items()}
        engine = await load_engine(LoadOptions(path=str(path), lora_modules=modules, **options), lambda *_: None)
        try:
            await test(engine)
            await nothing_held(engine)
        finally:
            await engine.close()

    asyncio.run(main())


async def answer(engine: Engine, ids: list[int], adapter: str, **params: Any) -> list[int]:
    chosen = SamplingParams(**{"max_tokens": COUNT, "temperature": 0.0, "ignore_eos": True, **params})
    return (await collect(engine, GenerationRequest("r", ids, chosen, adapter=adapter)))[0].ids


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCABULARY) for _ in range(rng.choice([2, 9, 40]))] for _ in range(count)]


def mixed_batch_equals_merged_weights(path: Path, adapters: dict[str, Path]) -> None:
    models = {name: merged_model(path, adapters.get(name)) for name in ["", *adapters]}
    asked = [(ids, name) for ids in prompts(4) for name in models]
    want = [merged_answer(models[name], ids, COUNT) for ids, name in asked]

    async def test(engine: Engine) -> None:
        assert engine.info.adapters == tuple(adapters)
        together = await asyncio.gather(*(answer(engine, ids, name) for ids, name in asked))
        assert list(together) == want
        alone = [await answer(engine, ids, name) for ids, name in asked[: len(models)]]
        assert alone == want[: len(models)]

    run(path, adapters, test, dtype="float32")
    first = {tuple(tokens) for (ids, _), tokens in zip(asked, want, strict=True) if ids == asked[0][0]}
    assert len(first) > 1, "the adapters change nothing, so the test says nothing"


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gpt2"])
def test_adapters_of_every_rank_and_scaling_share_a_batch(family: str, tmp_path: Path) -> None:
    path = tiny_model(family)
    adapters = {
        "wide": make_adapter(tmp_path / "a", path, rank=8, seed=1, use_rslora=True),
        "narrow": make_adapter(tmp_path / "b", path, rank=2, seed=2, wanted=lambda name: name.endswith(SOME)),
        "uneven": make_adapter(
            tmp_path / "c",
            path,
            seed=3,
            target_modules=r".*(proj|attn|fc)",
            rank_pattern={r"layers\.0\..*": 7, "v_proj": 3},
            alpha_pattern={"o_proj": 32, r"h\.1\..*": 2},
        ),
    }
    mixed_batch_equals_merged_weights(path, adapters)


def test_tied_tables_are_changed_on_one_side_only(tmp_path: Path) -> None:
    path = tiny_model("llama")
    adapters = {
        "tables": make_adapter(tmp_path / "a", path, seed=1, tables=True),
        "layers": make_adapter(tmp_path / "b", path, seed=2),
    }
    mixed_batch_equals_merged_weights(path, adapters)


def test_one_adapter_alone_over_the_models_own_code(tmp_path: Path) -> None:
    """Mixtral's attention: a family without a lean form, whose experts are no linear layers."""
    path = tiny_model("mixtral")
    mixed_batch_equals_merged_weights(path, {"attention": make_adapter(tmp_path, path, wanted=lambda n: "attn" in n)})


@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_over_low_bit_weights(quantization: str, tmp_path: Path) -> None:
    path = tiny_model("qwen3")
    folder = make_adapter(tmp_path, path, seed=5)
    ids = prompts(1, seed=3)[0]

    async def logprobs(engine: Engine, adapter: str) -> dict[int, float]:
        params = SamplingParams(max_tokens=1, temperature=0.0, logprobs=20, ignore_eos=True)
        found = (await collect(engine, GenerationRequest("r", ids, params, adapter=adapter)))[0].logprobs
        return {token: value for token, _, value in found[0].top}

    async def test(engine: Engine) -> None:
        model = merged_model(path, folder)
        with torch.no_grad():
            exact = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
        got = await logprobs(engine, "a")
        plain = await logprobs(engine, "")
        error = sum(abs(value - float(exact[token])) for token, value in got.items()) / len(got)
        without = sum(abs(value - float(exact[token])) for token, value in plain.items()) / len(plain)
        assert error < without / 3

    run(path, {"a": folder}, test, quantization=quantization)


def test_a_prefix_is_never_shared_with_another_adapter(tmp_path: Path) -> None:
    path = tiny_model("llama")
    adapters = {"a": make_adapter(tmp_path / "a", path, seed=1), "b": make_adapter(tmp_path / "b", path, seed=2)}
    ids = [random.Random(1).randrange(3, VOCABULARY) for _ in range(100)]
    models = {name: merged_model(path, adapters.get(name)) for name in ("", "a", "b")}
    want = {name: merged_answer(model, ids, COUNT) for name, model in models.items()}

    async def test(engine: Engine) -> None:
        for name in ("", "a", "b", "a", ""):
            params = SamplingParams(max_tokens=COUNT, temperature=0.0, ignore_eos=True)
            got = (await collect(engine, GenerationRequest("r", ids, params, adapter=name)))[0]
            assert got.ids == want[name]
        # All at once, so that a running prefill could be waited for.
        again = [[*ids, 7], [*ids, 7], [*ids, 7]]
        together = await asyncio.gather(*(answer(engine, i, n) for i, n in zip(again, want, strict=True)))
        assert list(together) == [merged_answer(models[n], [*ids, 7], COUNT) for n in want]

    run(path, adapters, test, dtype="float32")


def test_a_repeated_prompt_is_found_in_its_own_adapters_rows(tmp_path: Path) -> None:
    path = tiny_model("llama")
    ids = list(range(5, 90))

    async def test(engine: Engine) -> None:
        params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
        cached = []
        for name in ("a", "", "a", ""):
            found = (await collect(engine, GenerationRequest("r", ids, params, adapter=name)))[0]
            cached.append(found.deltas[0].cached_tokens)
        assert cached[:2] == [0, 0]
        assert min(cached[2:]) > 60

    run(path, {"a": make_adapter(tmp_path, path)}, test)


def test_embeddings_by_an_adapter(tmp_path: Path) -> None:
    path = tiny_model("llama")
    folder = make_adapter(tmp_path, path)
    ids = [4, 9, 33, 70]

    async def test(engine: Engine) -> None:
        assert isinstance(engine, TransformersEngine)
        with torch.no_grad():
            body = merged_model(path, folder).model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        want = torch.nn.functional.normalize(body, dim=0)
        got = torch.tensor((await engine.embed([ids], "a"))[0])
        assert torch.allclose(got, want, atol=1e-4)
        assert not torch.allclose(torch.tensor((await engine.embed([ids]))[0]), want, atol=1e-2)

    run(path, {"a": folder}, test, dtype="float32")


def test_tokens_without_an_adapter_get_the_models_own_result_to_the_bit() -> None:
    torch.manual_seed(0)
    site = Site(torch.randn(6, 8), torch.randn(6, 5), (1, 1, 2, 2, 2, 3))
    x, out = torch.randn(4, 8), torch.randn(4, 5)
    with applied(LoraBatch([0, 2, 0, 3])):
        got = site.add(out.clone(), x)
    assert torch.equal(got[[0, 2]], out[[0, 2]])
    assert torch.allclose(got[1], out[1] + x[1] @ site.down[2:5].T @ site.up[2:5], atol=1e-5)
    assert torch.equal(site.add(out.clone(), x), out), "no batch is applied any more"


def test_an_unknown_adapter_is_refused(tmp_path: Path) -> None:
    from fcd.errors import ApiError

    async def test(engine: Engine) -> None:
        with pytest.raises(ApiError, match="no adapter 'z'"):
            await answer(engine, [3, 4], "z")

    run(tiny_model("llama"), {"a": make_adapter(tmp_path, tiny_model("llama"))}, test)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"rank_pattern": {"(": 3}}, "no expression"),
        ({"r": 5}, "rank is said to be 5"),
    ],
)
def test_other_kinds_are_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "bad", tiny_model("llama"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelLoadError, match=message) as caught:
        read_adapters({"bad": str(folder)})[0].pairs()
    assert "'bad'" in caught.value.message
    assert caught.value.hint


def test_broken_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="There is no folder"):
        read_adapters({"a": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match=r"no adapter_config\.json"):
        read_adapters({"a": str(tmp_path / "empty")})
    folder = make_adapter(tmp_path / "whole", tiny_model("llama"))
    save_file({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight"):
        read_adapters({"a": str(folder)})[0].pairs()
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_adapters({"a": str(folder)})[0].pairs()
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="could run code"):
        read_adapters({"a": str(folder)})


async def _no_test(engine: Engine) -> None:
    raise AssertionError("it must not load")


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", tiny_model("llama"))
    other = make_model("llama", tmp_path / "m", hidden_size=128)
    with pytest.raises(ModelLoadError, match=r"goes from 128 to \d+ in this model and from"):
        run(other, {"a": folder}, _no_test)
    with pytest.raises(ModelLoadError, match="does not have"):
        run(tiny_model("gpt2"), {"a": folder}, _no_test)


def test_numbers_that_are_none_are_refused_because_they_would_reach_other_tokens(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", tiny_model("llama"))
    for half, value in (("lora_A", float("nan")), ("lora_B", float("inf")), ("lora_B", 1e38)):
        tensors = load_file(folder / "adapter_model.safetensors")
        name = next(key for key in tensors if key.endswith(f"q_proj.{half}.weight"))
        kept = tensors[name].clone()
        tensors[name][0, 0] = value
        save_file(tensors, folder / "adapter_model.safetensors")
        # Scaled by 2 the last is still a number in fp32, and none in fp16.
        with pytest.raises(ModelLoadError, match=r"q_proj' holds numbers that float\d+ cannot"):
            run(tiny_model("llama"), {"a": folder}, _no_test, dtype="float16" if value == 1e38 else "float32")
        save_file({**tensors, name: kept}, folder / "adapter_model.safetensors")


def test_kv_memory_is_what_the_adapters_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_adapter(tmp_path / "a", tiny_model("llama"))
    done: list[str] = []
    install, budget = build.install, build.kv_budget

    def installed(*args: Any) -> Any:
        done.append("adapters")
        return install(*args)

    def asked(*args: Any) -> int:
        done.append("budget")
        return budget(*args)

    monkeypatch.setattr(build, "install", installed)
    monkeypatch.setattr(build, "kv_budget", asked)

    async def test(engine: Engine) -> None:
        assert done == ["adapters", "budget"]

    run(tiny_model("llama"), {"a": folder}, test)


@pytest.mark.parametrize("family", ["t5", "mamba"])
def test_models_that_are_not_packed_take_none(family: str, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", tiny_model("llama"))
    stages: list[str] = []

    async def main() -> None:
        options = LoadOptions(path=str(tiny_model(family)), lora_modules={"a": str(folder)})
        await load_engine(options, lambda stage, *_: stages.append(stage))

    with pytest.raises(ModelLoadError, match="takes no LoRA adapters"):
        asyncio.run(main())
    assert "weights" not in stages
