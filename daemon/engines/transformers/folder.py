"""What is wrong with a model's folder, found before anything is loaded from it and said by the name of the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from fcd.errors import ModelLoadError

_AGAIN = "Copy the folder again, or download the model again: fcd pull REPO."
_INDEX = "model.safetensors.index.json"
_MOST_HEADER = 100 * 2**20
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "*.tiktoken",
)
"""What tokenizers are kept in; any one will do."""


def check_folder(path: str) -> Path:
    """The model's folder, if a model can be loaded from it.

    Raises:
        ModelLoadError: it is missing, has no usable config.json, or its weights are missing, pickled or incomplete.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelLoadError(
            f"There is no folder '{folder}'.", hint="Give a model's folder, or download one: fcd pull REPO."
        )
    _check_config(folder)
    _check_weights(folder)
    return folder


def _check_config(folder: Path) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelLoadError(
            f"'{folder}' has no config.json, so it is not a Hugging Face model folder.",
            hint="Give the folder that holds config.json and the .safetensors files.",
        )
    if not isinstance(_read_json(file), dict):
        raise ModelLoadError(f"'{file}' holds no JSON object.", hint=_AGAIN)


def _check_weights(folder: Path) -> None:
    index = folder / _INDEX
    if index.is_file():
        content = _read_json(index)
        names = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(names, dict):
            raise ModelLoadError(f"'{index}' names no files.", hint=_AGAIN)
        missing = sorted({str(name) for name in names.values() if not (folder / str(name)).is_file()})
        if missing:
            more = f" and {len(missing) - 1} more of its files" if len(missing) > 1 else ""
            raise ModelLoadError(f"'{folder}' is incomplete: {missing[0]}{more} missing.", hint=_AGAIN)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        raise ModelLoadError(
            f"'{folder}' holds no weights: there is no .safetensors file in it."
            + (" Its pickled weights could run code when they are read, so they are not loaded." if pickled else ""),
            hint="Use a version of the model in safetensors format." if pickled else _AGAIN,
        )
    for file in files:
        _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    """Its header is whole, and the file as long as that says."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            header = json.loads(stream.read(length)) if 2 <= length <= min(_MOST_HEADER, size) else None
    except OSError as error:
        raise ModelLoadError(f"'{file}' cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise ModelLoadError(f"'{file}' is broken: it is no safetensors file, or was cut short.", hint=_AGAIN)
    ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    whole = 8 + length + max(ends, default=0)
    if size < whole:
        raise ModelLoadError(f"'{file}' was cut short: it has {size} bytes of {whole}.", hint=_AGAIN)


def tokenizer_missing(folder: Path) -> ModelLoadError | None:
    """Why no tokenizer can be had from a folder, None when the files of one are there."""
    if any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        return None
    return ModelLoadError(
        f"'{folder}' has no tokenizer: there is no tokenizer.json, tokenizer.model, vocab.json or vocab.txt in it.",
        hint="Copy these files from the model that it was made from, or download the model again: fcd pull REPO.",
    )


def _read_json(file: Path) -> Any:
    """Raises ModelLoadError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(f"'{file}' cannot be read: {error.strerror}.", hint="Check its permissions.") from error
    except ValueError as error:
        raise ModelLoadError(f"'{file}' is not valid JSON: {error}.", hint=_AGAIN) from error
