"""What names mean, what is in the cache, what a model needs: on folders that the tests make."""

from __future__ import annotations

import json
import struct
import sys
from math import prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcd.catalog import (
    Reference,
    cached_repos,
    cached_snapshot,
    ensure_local,
    estimate,
    hub_cache,
    list_models,
    near_names,
    read_facts,
    resolve,
)
from fcd.catalog.facts import context_length, kv_values_per_token, read_safetensors_header
from fcd.catalog.hub import is_offline
from fcd.errors import ApiError, ModelLoadError
from fcd.machine import PACKED_HALF
from fcd.settings import ModelSettings, Settings

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
TENSORS = {
    "model.embed_tokens.weight": (100, 64),
    "model.layers.0.mlp.up_proj.weight": (128, 64),
    "model.norm.weight": (64,),
}
BYTES = {"F32": 4, "BF16": 2}


def write_safetensors(file: Path, tensors: dict[str, tuple[int, ...]], dtype: str = "BF16") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * end)


def make_model(folder: Path, config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or LLAMA))
    write_safetensors(folder / "model.safetensors", TENSORS)
    return folder


def make_cached(cache: Path, repo: str, commit: str = "a" * 40) -> Path:
    """A downloaded repo in the hub's own layout."""
    folder = cache / ("models--" + repo.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    return make_model(folder / "snapshots" / commit)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def test_every_kind_of_name(cache: Path, tmp_path: Path) -> None:
    make_cached(cache, "Some/Model")
    folder = make_model(tmp_path / "mine")
    settings = Settings(
        aliases={"small": "Some/Model@8bit", "again": "small"},
        models={"notes": ModelSettings(path=str(folder), quantization="4bit", device="cpu")},
    )

    def found(name: str) -> tuple[str, str, str]:
        reference = resolve(name, settings)
        return reference.kind, reference.name, reference.quantization

    assert found("guide") == ("builtin", "guide", "")
    assert found("guide@8bit") == ("builtin", "guide@8bit", "8bit")
    assert found("Some/Model") == ("cached", "Some/Model", "")
    assert found("small") == ("cached", "Some/Model@8bit", "8bit")
    assert found("again") == ("cached", "Some/Model@8bit", "8bit")
    assert found("small@4bit") == ("cached", "Some/Model@4bit", "4bit")
    assert found("notes") == ("folder", "notes", "4bit")
    assert found("notes@8bit") == ("folder", "notes@8bit", "8bit")
    assert found(str(folder)) == ("folder", "mine", "")
    assert found(f"{folder}@8bit") == ("folder", "mine@8bit", "8bit")
    assert found("Other/Model") == ("repo", "Other/Model", "")
    assert resolve("notes", settings).options.device == "cpu"
    assert resolve("notes", settings).configured


@pytest.mark.parametrize(
    "name",
    [
        "../../etc",
        "/etc",
        "/etc/passwd",
        "~",
        "~/x",
        "./x",
        "a/../b",
        "a\0b",
        "a\nb",
        "",
        "   ",
        "x" * 10_000,
        "..",
        "C:\\x",
    ],
)
def test_names_from_clients_never_reach_the_file_system(name: str, cache: Path) -> None:
    with pytest.raises(ApiError) as caught:
        resolve(name, Settings(), allow_paths=False)
    assert (caught.value.status, caught.value.param) == (400, "model")
    assert len(caught.value.message) < 300


@given(st.text(max_size=400))
def test_a_name_from_a_client_is_a_model_or_an_error(name: str) -> None:
    status = 200
    try:
        reference = resolve(name, Settings(), allow_paths=False)
        assert reference.kind in ("builtin", "cached", "repo")
    except ApiError as error:
        status = error.status
    assert status in (200, 400, 404)


def test_a_local_folder_is_not_reached_by_a_clients_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name", Settings()).kind == "folder"
    assert resolve("owner/name", Settings(), allow_paths=False).kind == "repo"


def test_unknown_names_are_told_what_comes_close(cache: Path) -> None:
    make_cached(cache, "Qwen/Qwen3-0.6B")
    with pytest.raises(ApiError, match="Did you mean 'guide'") as caught:
        resolve("giude", Settings())
    assert caught.value.status == 404
    assert near_names("qwen3-0.6b", Settings()) == ["Qwen/Qwen3-0.6B"]
    with pytest.raises(ApiError, match="'llama@4bit' does not exist"):
        resolve("llama@4bit", Settings())


def test_folders_that_are_no_models(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.safetensors").touch()
    for path, said in (
        ("adapter", "adapter"),
        ("empty", "no config.json"),
        ("weights.safetensors", "is a file"),
        ("no", "no folder"),
    ):
        with pytest.raises(ApiError, match=said):
            resolve(str(tmp_path / path), Settings())


def test_an_alias_in_a_circle(cache: Path) -> None:
    with pytest.raises(ApiError, match="a -> b -> a"):
        resolve("a", Settings(aliases={"a": "b", "b": "a"}))


def test_a_config_entry_that_leads_nowhere(cache: Path) -> None:
    with pytest.raises(ApiError, match=r"models\.x\.path"):
        resolve("x", Settings(models={"x": ModelSettings(path="no such thing")}))


def test_an_incomplete_download_is_not_a_model(cache: Path) -> None:
    snapshot = make_cached(cache, "Some/Model")
    assert cached_snapshot("Some/Model") == snapshot
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert cached_snapshot("Some/Model") is None
    assert list(cached_repos()) == []
    assert resolve("Some/Model", Settings()).kind == "repo"
    write_safetensors(snapshot / "model-2.safetensors", TENSORS)
    assert cached_snapshot("Some/Model") == snapshot
    (snapshot / "model.safetensors.index.json").write_text("{cut")
    assert cached_snapshot("Some/Model") is None
    assert cached_snapshot("Some/Model", "other-branch") is None


def test_listing(cache: Path, tmp_path: Path) -> None:
    make_cached(cache, "Some/Model")
    settings = Settings(aliases={"s": "Some/Model", "bad": "nosuch"}, models={"far": ModelSettings(path="Far/Away")})
    settings.chat.model = "Some/Model"
    models = {model.name: model for model in list_models(settings)}
    assert list(models) == ["guide", "guide-mini", "far", "s", "bad", "Some/Model"]
    assert models["Some/Model"].context_length == 512
    assert models["Some/Model"].size_bytes > 0
    assert "not downloaded" in models["far"].description
    assert models["bad"].state == "failed"
    assert [name for name, model in models.items() if model.default] == ["Some/Model"]


def test_the_cache_is_where_the_hub_keeps_it() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a", "HF_HOME": "/b"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({"HOME": "/d"}) == Path("/d/.cache/huggingface/hub")
    assert is_offline({"HF_HUB_OFFLINE": "1"})
    assert not is_offline({"HF_HUB_OFFLINE": "0"})


def test_offline_is_said(cache: Path) -> None:
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE"):
        ensure_local(resolve("Far/Away", Settings()))
    gone = Reference(name="x", kind="folder", path=Path("/nowhere"))
    with pytest.raises(ModelLoadError, match="missing"):
        ensure_local(gone)


def test_estimates_count_the_headers(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    parameters = 100 * 64 + 128 * 64 + 64
    plain = estimate(folder)
    assert (plain.parameters, plain.weights_bytes) == (parameters, parameters * 2)
    assert estimate(folder, dtype="float32").weights_bytes == parameters * 4
    assert estimate(folder, "8bit").weights_bytes == (100 * 64 + 64) * 2 + 128 * 64 + 128 * 4
    assert estimate(folder, "4bit").weights_bytes < estimate(folder, "8bit").weights_bytes
    assert plain.kv_bytes_per_token == 2 * 3 * 2 * 16 * 2
    packed = estimate(folder, dtype=PACKED_HALF, packed=True)
    held = 1 if sys.platform == "linux" else 2
    assert packed.kv_bytes_per_token == held * plain.kv_bytes_per_token, "float16 where there are kernels that read it"
    assert estimate(folder, dtype="float32").kv_bytes_per_token == 2 * plain.kv_bytes_per_token
    assert packed.weights_bytes == parameters * 2
    assert plain.total_bytes(10) == plain.weights_bytes + 10 * plain.kv_bytes_per_token


def test_the_built_in_model_is_estimated_as_its_file_is() -> None:
    from fcd.builtin import builtin_path

    file = builtin_path("guide") / "model.safetensors"
    assert 0 <= file.stat().st_size - estimate(builtin_path("guide")).weights_bytes < 100_000


@pytest.mark.parametrize("data", [b"", b"\x01", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"nope"])
def test_files_that_are_not_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="not a safetensors file"):
        list(read_safetensors_header(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "yarn"}}, 100),
        ({"max_position_embeddings": True}, 0),
        ({}, 0),
    ],
)
def test_context_length(config: dict[str, Any], length: int) -> None:
    assert context_length(config) == length


def test_kv_of_latent_and_of_mixed_attention() -> None:
    assert kv_values_per_token({"num_hidden_layers": 2, "kv_lora_rank": 512, "qk_rope_head_dim": 64}) == 2 * 576
    mixed = {**LLAMA, "layer_types": ["full_attention", "linear_attention", "sliding_attention"]}
    assert kv_values_per_token(mixed) == 2 * 2 * 2 * 16
    assert kv_values_per_token({}) == 0


def test_facts_of_what_is_not_there(tmp_path: Path) -> None:
    assert read_facts(tmp_path).context_length == 0
    (tmp_path / "config.json").write_text("[1]")
    assert read_facts(tmp_path).architecture == ""


def test_an_adapter_of_config_toml_is_a_name_of_its_model(cache: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    settings = Settings(
        models={"base": ModelSettings(path=str(folder), adapters={"pirate": "~/p", "poet": str(tmp_path / "q")})},
        aliases={"mate": "pirate"},
    )
    for name in ("pirate", "poet", "mate", "base"):
        found = resolve(name, settings, allow_paths=False)
        assert (found.name, found.path) == ("base", folder)
        modules = {"pirate": str(Path.home() / "p"), "poet": str(tmp_path / "q")}
        assert found.options.lora_modules == modules
    listed = {info.name: info.parent for info in list_models(settings, cache=cache)}
    assert {name: listed[name] for name in ("base", "pirate", "poet")} == {"base": "", "pirate": "base", "poet": "base"}
