"""Folders that no model can be loaded from: each says once, plainly, which file is the matter and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.engines.base import LoadOptions
from daemon.engines.transformers.folder import check_folder
from daemon.engines.transformers.loader import load_model
from fcd.errors import ModelLoadError
from tests.tiny_models import tiny_model


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def incomplete(folder: Path) -> None:
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors").rename(folder / weights["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


DAMAGE: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: (folder / "config.json").write_text("{oops"), "config.json' is not valid JSON"),
    (lambda folder: (folder / "config.json").write_text("[]"), "holds no JSON object"),
    (lambda folder: (folder / "model.safetensors").unlink(), "there is no .safetensors file"),
    (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "could run code"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"garbage" * 99), "model.safetensors' is broken"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors' is broken"),
    (cut, "was cut short: it has"),
    (incomplete, "model-00002-of-00002.safetensors missing"),
    (without_tokenizer, "has no tokenizer: there is no tokenizer.json"),
    (lambda folder: (folder / "tokenizer.json").write_text("{oops"), "cannot be read by the transformers library"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[message[:30] for _, message in DAMAGE])
def test_what_is_wrong_is_named_once(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("llama"), tmp_path / "m"))
    damage(folder)
    stages: list[str] = []
    with pytest.raises(ModelLoadError) as caught:
        load_model(LoadOptions(path=str(folder)), lambda stage, *_: stages.append(stage))
    said = caught.value.message
    assert message in said
    assert said.count(str(folder)) == 1
    assert "could not be loaded" not in said, "whoever asked says that"
    assert "\n" not in said
    assert caught.value.hint
    assert "weights" not in stages


def test_a_whole_folder_is_fine() -> None:
    assert check_folder(str(tiny_model("llama"))) == tiny_model("llama")
