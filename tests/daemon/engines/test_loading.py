"""What is read from a model's folder, and what is said when it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.engines.base import LoadOptions
from daemon.engines.transformers.context import context_length
from daemon.engines.transformers.devices import choose_device, choose_dtype
from daemon.engines.transformers.loader import load_model
from daemon.engines.transformers.placement import parse_bytes, parse_gpus
from daemon.engines.transformers.threads import choose_threads, measure_plan
from fcd.errors import ModelLoadError
from tests.tiny_models import tiny_model

LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
CASES: list[tuple[dict[str, Any], int | None, int]] = [
    ({"max_position_embeddings": 131072, "rope_scaling": LLAMA31}, 131072, 131072),
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, None, 16384),
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, None, 8192),
    (
        {
            "max_position_embeddings": 32768,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        },
        None,
        131072,
    ),
    (
        {
            "max_position_embeddings": 131072,
            "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096},
        },
        None,
        131072,
    ),
    ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "factor": 32.0}}, None, 131072),
    (
        {
            "max_position_embeddings": 131072,
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
        },
        None,
        131072,
    ),
    ({"max_position_embeddings": 32768, "sliding_window": 4096}, None, 32768),
    ({"max_position_embeddings": 40960, "rope_scaling": None}, 131072, 40960),
    ({"n_positions": 1024}, 1024, 1024),
    ({"d_model": 512}, 512, 512),
    ({"d_model": 512}, int(1e30), 2048),
    ({"max_position_embeddings": 4096, "max_sequence_length": 16384}, None, 16384),
]


@pytest.mark.parametrize(("config", "tokenizer", "want"), CASES)
def test_context_length(config: dict[str, Any], tokenizer: int | None, want: int) -> None:
    assert context_length(config, tokenizer) == want


def load(**options: Any) -> Any:
    return load_model(LoadOptions(**options), lambda *progress: None)


def refused(**options: Any) -> str:
    with pytest.raises(ModelLoadError) as error:
        load(**options)
    assert error.value.hint
    return error.value.message


def copy_of(family: str, folder: Path) -> Path:
    return Path(shutil.copytree(tiny_model(family), folder / family))


def test_what_is_not_a_model_is_named(tmp_path: Path) -> None:
    assert "There is no folder" in refused(path=str(tmp_path / "missing"))
    assert "config.json" in refused(path=str(tmp_path))
    folder = copy_of("llama", tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled" in refused(path=str(folder))


def test_a_damaged_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(folder) in refused(path=str(folder))


def test_an_unknown_architecture_is_an_error(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    assert str(folder) in refused(path=str(folder))


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    mine = {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps({**config, **mine}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(path=str(folder))
    assert not (tmp_path / "ran").exists()


def test_options_that_cannot_be_honoured_are_refused() -> None:
    path = str(tiny_model("llama"))
    assert "cuda" in refused(path=path, device="cuda") if not torch.cuda.is_available() else True
    assert "warp" in refused(path=path, device="warp")
    assert "float9" in refused(path=path, dtype="float9")
    assert "3bit" in refused(path=path, quantization="3bit")
    assert "GPU" in refused(path=path, device="cpu", num_gpus=2)
    assert "GPU" in refused(path=path, device="cpu", gpus="0,1")
    assert "memory" in refused(path=path, max_gpu_memory="lots")


def test_a_quantised_checkpoint_is_not_quantised_again(tmp_path: Path) -> None:
    folder = copy_of("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    assert "already" in refused(path=str(folder), quantization="8bit")


def test_dtype_follows_the_checkpoint_the_machine_and_the_wish() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype("", torch.float32, cpu) == torch.float32
    assert choose_dtype("bf16", torch.float32, cpu) == torch.bfloat16
    assert choose_dtype("auto", torch.bfloat16, cpu) in {torch.bfloat16, torch.float32}
    loaded = load(path=str(tiny_model("llama")), dtype="bfloat16")
    assert loaded.info.dtype == "bfloat16"
    assert loaded.model.dtype == torch.bfloat16


def test_sizes_and_gpu_lists() -> None:
    assert parse_bytes("8GiB") == 8 * 2**30
    assert parse_bytes("1.5 GB") == 1_500_000_000
    assert parse_bytes("800MiB") == 800 * 2**20
    assert parse_gpus("0,2") == [0, 2]
    for text in ("x", "0,0", "-1"):
        with pytest.raises(ModelLoadError):
            parse_gpus(text)


def test_threads_come_from_the_environment_or_the_cores() -> None:
    assert choose_threads("3") == 3
    assert choose_threads("") >= 1
    for text in ("0", "many"):
        with pytest.raises(ModelLoadError):
            choose_threads(text)


def test_more_threads_are_taken_only_where_they_help() -> None:
    def time_of(count: int, tokens: int) -> float:
        return tokens / count + 2.0 * count

    plan = measure_plan(6, time_of)
    assert [plan.threads(n) for n in (1, 2, 8, 48, 256, 10**6)] == [1, 1, 2, 6, 6, 6]
    assert measure_plan(1, time_of).threads(5) == 1


def test_a_machine_in_use_is_not_tried_for_long() -> None:
    tried: list[int] = []

    def time_of(count: int, tokens: int) -> float:
        tried.append(count)
        return 100.0**count

    assert measure_plan(16, time_of).threads(10**6) == 1
    assert max(tried) == 2


def test_info_tells_what_was_loaded() -> None:
    info = load(path=str(tiny_model("gemma2"))).info
    assert info.architecture == "Gemma2ForCausalLM"
    assert info.context_length == 1024
    assert info.eos_token_ids == (2,)
    assert info.vocab_size == 512
    assert not info.is_encoder_decoder
