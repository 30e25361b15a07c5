"""Embeddings: encoders as models of their own, and pooling as the model's sentence-transformers files say."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from daemon.engines.base import Engine, GenerationRequest, GrammarSpec, LoadOptions, SamplingParams
from daemon.engines.transformers import load_engine
from daemon.engines.transformers.embeddings import Embedder
from daemon.engines.transformers.pooling import Pooling, read_pooling
from fcd.errors import ApiError, ModelLoadError
from tests.tiny_models import make_tokenizer, tiny_model

TEXTS = [[5, 9, 200, 31], [7], list(range(3, 60))]


def make_encoder(folder: Path, family: str = "bert") -> Path:
    """A random-weight encoder, saved as the masked language model that it was trained as."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=512,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        initializer_range=0.2,
    )
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def with_pooling(folder: Path, *modules: str, pooling: dict[str, Any] | None = None, longest: int = 0) -> Path:
    """Add sentence-transformers' files."""
    kinds = [("Transformer", ""), *((kind, f"{place}_{kind}") for place, kind in enumerate(modules, 1))]
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if longest:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    return folder


def run(folder: Path, test: Callable[[Engine], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        engine = await load_engine(LoadOptions(path=str(folder), dtype="float32", **options), lambda *_: None)
        try:
            await test(engine)
        finally:
            await engine.close()

    asyncio.run(main())


@torch.no_grad()
def hidden(folder: Path, ids: list[int]) -> torch.Tensor:
    """The last hidden states of one text alone, by transformers."""
    from transformers import AutoModel

    states: torch.Tensor = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    return states


def close(got: list[float], want: torch.Tensor) -> bool:
    return torch.allclose(torch.tensor(got), want, atol=2e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_an_embedding_model(family: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, family)

    async def test(engine: Engine) -> None:
        info = engine.info
        assert info.capabilities == ("embeddings",)
        assert info.context_length == (130 if family == "bert" else 128)
        for ids, vector in zip(TEXTS, await engine.embed(TEXTS), strict=True):
            assert close(vector, F.normalize(hidden(folder, ids).mean(0), dim=0))
        assert len((await engine.embed([[5] * info.context_length]))[0]) == 32
        with pytest.raises(ApiError):
            await engine.embed([[5] * (info.context_length + 1)])
        with pytest.raises(ApiError, match="makes embeddings"):
            async for _ in engine.generate(GenerationRequest("r", [3], SamplingParams())):
                pass
        with pytest.raises(ApiError, match="makes embeddings"):
            await engine.compile_grammar(GrammarSpec({}))
        assert engine.stats().prompt_tokens > 0

    run(folder, test)


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
BOTH = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}
LAST = {"pooling_mode_lasttoken": True}


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        (CLS, lambda h: h[0]),
        (BOTH, lambda h: torch.cat([h.amax(0), h.mean(0)])),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, lambda h: h.sum(0) / len(h) ** 0.5),
        (LAST, lambda h: h[-1]),
    ],
)
@pytest.mark.parametrize("normalise", [True, False])
def test_pooling_is_the_models_own(pooling: dict[str, Any], pool: Any, normalise: bool, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    with_pooling(folder, "Pooling", *(["Normalize"] if normalise else []), pooling=pooling, longest=64)

    async def test(engine: Engine) -> None:
        assert engine.info.context_length == 64
        for ids, vector in zip(TEXTS, await engine.embed(TEXTS), strict=True):
            want = pool(hidden(folder, ids))
            assert close(vector, F.normalize(want, dim=0) if normalise else want)

    run(folder, test)


@pytest.mark.parametrize("family", ["llama", "mamba", "t5"])
def test_other_models_pool_as_their_files_say_too(family: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model(family), tmp_path / "m"))
    with_pooling(folder, "Pooling", pooling=LAST if family != "t5" else CLS)

    async def test(engine: Engine) -> None:
        got = await engine.embed(TEXTS)
        alone = [(await engine.embed([ids]))[0] for ids in TEXTS]
        for ids, vector, one in zip(TEXTS, got, alone, strict=True):
            assert torch.allclose(torch.tensor(vector), torch.tensor(one), atol=1e-3)
            if family != "t5":
                assert close(vector, hidden(folder, ids)[-1])

    run(folder, test)


def test_a_layer_behind_the_pooling(tmp_path: Path) -> None:
    folder = with_pooling(make_encoder(tmp_path), "Pooling", "Dense", "Normalize", pooling=CLS)
    (folder / "2_Dense").mkdir()
    layer = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(layer))
    with pytest.raises(ModelLoadError, match=r"2_Dense.model\.safetensors' is missing"):
        read_pooling(folder)
    weight, bias = torch.randn(8, 32), torch.randn(8)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")

    async def test(engine: Engine) -> None:
        want = torch.tanh(F.linear(hidden(folder, TEXTS[0])[0], weight, bias))
        assert close((await engine.embed(TEXTS[:1]))[0], F.normalize(want, dim=0))

    run(folder, test)


def test_what_is_not_offered_is_said(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling()
    folder = with_pooling(tmp_path, "Pooling", "LSTM", pooling={})
    with pytest.raises(ModelLoadError, match="LSTM"):
        read_pooling(folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "median"}')
    with pytest.raises(ModelLoadError, match="median"):
        read_pooling(folder)
    (folder / "modules.json").write_text("{oops")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_pooling(folder)


def test_an_encoder_in_8_bit_is_close(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)

    async def test(engine: Engine) -> None:
        got = torch.tensor((await engine.embed(TEXTS[2:]))[0])
        assert float(got @ F.normalize(hidden(folder, TEXTS[2]).mean(0), dim=0)) > 0.98

    run(folder, test, quantization="8bit")


def test_what_nobody_waits_for_any_more_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(None, packed=False)
    computed: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def states(group: Any) -> list[torch.Tensor]:
        computed.append(len(group[0]))
        begun.set()
        assert go_on.wait(10)
        return [torch.ones(1, 2) for _ in group]

    monkeypatch.setattr(embedder, "_padded_states", states)

    async def main() -> None:
        asking = asyncio.create_task(embedder.ask([[1] * 2048] * 3))
        assert await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go_on.set()
        assert len(await embedder.ask([[1]])) == 1
        assert computed == [2048, 1]

    asyncio.run(main())


def test_the_thread_that_computes_ends_with_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(None, packed=False)
    threads: list[threading.Thread] = []

    def states(group: Any) -> list[torch.Tensor]:
        threads.append(threading.current_thread())
        return [torch.ones(1, 2) for _ in group]

    monkeypatch.setattr(embedder, "_padded_states", states)

    async def main() -> None:
        await asyncio.gather(*(embedder.ask([[1]]) for _ in range(5)))
        assert len(set(threads)) == 1
        threads[0].join(10)
        assert not threads[0].is_alive()
        assert len(await embedder.ask([[1]])) == 1

    asyncio.run(main())
