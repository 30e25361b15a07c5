"""Which form a model writes its calls in: told from its chat template and its special tokens, never from its name."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal

from daemon.worker.tools import hermes, llama, mistral
from daemon.worker.tools.events import ToolParser

FamilyName = Literal["hermes", "llama", "mistral", "mistral_args"]

_TOOLS: Final = re.compile(r"\btools\b")


@dataclass(frozen=True, slots=True)
class ToolFamily:
    """How a model is told of tools and how it calls them.

    Args:
        name: the form of its calls.
        native: its own chat template renders the tools; else a system prompt in Hermes' words does.
    """

    name: FamilyName
    native: bool

    def parser(self, names: frozenset[str]) -> ToolParser:
        """A parser for one completion."""
        return _PARSERS[self.name](names)

    @property
    def several(self) -> bool:
        """Whether an answer can hold several calls: Llama's template takes one at a time."""
        return self.name != "llama"

    def new_id(self) -> str:
        """An id for a call; Mistral's templates take nine letters and digits only."""
        if self.name.startswith("mistral"):
            return secrets.token_hex(5)[:9]
        return f"call_{secrets.token_hex(12)}"

    def known_id(self, id: str) -> str:
        """An id from a client, in the form that the template takes; the same id stays the same."""
        if not self.name.startswith("mistral") or re.fullmatch(r"[A-Za-z0-9]{9}", id):
            return id
        return hashlib.sha256(id.encode()).hexdigest()[:9]


_PARSERS: Final[dict[FamilyName, Callable[[frozenset[str]], ToolParser]]] = {
    "hermes": hermes.HermesParser,
    "llama": llama.LlamaParser,
    "mistral": mistral.MistralParser,
    "mistral_args": mistral.MistralParser,
}


def detect_family(template: str, tokens: Collection[str]) -> ToolFamily:
    """The family of a model.

    Args:
        template: the source of its chat template, empty when it has none.
        tokens: its added tokens.
    """
    native = bool(_TOOLS.search(template))
    if native and mistral.CALLS in template:
        return ToolFamily("mistral_args" if mistral.ARGS in template else "mistral", True)
    if native and hermes.OPEN in template and "<function=" not in template:
        return ToolFamily("hermes", True)
    if native and _is_llama(template, tokens):
        return ToolFamily("llama", True)
    return ToolFamily("hermes", False)


def _is_llama(template: str, tokens: Collection[str]) -> bool:
    """Llama 3's templates ask for `{"name": function name, "parameters": ...}` or write calls with that key."""
    return '"parameters"' in template and (llama.TAG in template or llama.TAG in tokens)
