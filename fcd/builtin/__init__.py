"""The models that fcd brings along: their names, where their files are, what they are. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT: Final = "guide"

DESCRIPTIONS: Final[dict[str, str]] = {
    "guide": "small, offline; knows fcd and a few simple skills, and says so when asked for more",
    "guide-mini": "the weaker sibling of guide, a quarter of its size: a partner for first battles",
}

NAMES: Final = tuple(DESCRIPTIONS)

CONTEXT_LENGTH: Final = 2048

_MODELS = Path(__file__).resolve().parent / "models"


def is_builtin(name: str) -> bool:
    """Whether `name` (without an `@8bit` suffix) is one of fcd's own models."""
    return name in DESCRIPTIONS


def builtin_path(name: str) -> Path:
    """The folder with the model's files (config.json, model.safetensors, tokenizer). KeyError for other names."""
    if name not in DESCRIPTIONS:
        raise KeyError(name)
    return _MODELS / name


def describe(name: str) -> str:
    """One line about the model. KeyError for other names."""
    return DESCRIPTIONS[name]
