"""Whether a server that speaks OpenAI's routes says that its model sees images. Pure.

No field of OpenAI's own tells it, so those of the servers that are met are looked for: llama.cpp's `capabilities` in
/v1/models and `modalities` in /props, OpenRouter's `architecture.input_modalities`, LM Studio's and fcd's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = frozenset({"vision", "image", "images", "multimodal"})


def says_vision(model: Mapping[str, Any], props: Mapping[str, Any] | None = None) -> bool:
    """`model`: its entry in /v1/models; `props`: what /props answers, where the server has one model."""
    architecture = model.get("architecture")
    lists = [
        model.get("capabilities"),
        model.get("input_modalities"),
        model.get("modalities"),
        architecture.get("input_modalities") if isinstance(architecture, dict) else None,
        (props or {}).get("modalities"),
    ]
    return model.get("type") == "vlm" or any(_names(each) for each in lists)


def llama_entry(listing: Mapping[str, Any], name: str) -> dict[str, Any]:
    """llama.cpp's own entry for a model in what /v1/models answers, which has what OpenAI's beside it lacks."""
    entries = listing.get("models")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and name in (entry.get("name"), entry.get("model")):
            return entry
    return {}


def _names(said: Any) -> bool:
    """A list of words, or an object of words and whether each holds."""
    if isinstance(said, dict):
        return any(said.get(word) is True for word in _WORDS)
    return isinstance(said, list) and any(word in _WORDS for word in said if isinstance(word, str))
