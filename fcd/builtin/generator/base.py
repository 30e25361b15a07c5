"""What every skill is made of: turns with checkable answers, phrasings to train on and phrasings held out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Final

from fcd.builtin.generator.rephrase import rephrase

Check = Callable[[str], bool]

_REPHRASE: Final = 0.35

# Text between these two (private use) characters is encoded letter by letter when it is trained on.
LETTERS_OPEN: Final = "\ue000"
LETTERS_CLOSE: Final = "\ue001"


def letters(text: str) -> str:
    """Mark `text` to be written one character per token."""
    return f"{LETTERS_OPEN}{text}{LETTERS_CLOSE}"


def plain(text: str) -> str:
    """`text` as a person sees it, without the marks of `letters`."""
    return text.replace(LETTERS_OPEN, "").replace(LETTERS_CLOSE, "")


@dataclass(frozen=True)
class Turn:
    """One question, the answer to learn, and what any right answer must satisfy (None: not scored)."""

    question: str
    answer: str
    check: Check | None = None


@dataclass(frozen=True)
class Phrasings:
    """Templates (str.format) of one kind of question. `held_out` ones are never trained on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def pick(self, ctx: Context) -> str:
        """A held-out template as it is, or one to train on: as it is, or asked in another way."""
        if ctx.held_out:
            return ctx.rng.choice(self.held_out)
        template = ctx.rng.choice(self.train)
        if ctx.rng.random() < _REPHRASE:
            other = rephrase(template, ctx.rng)
            return template if normalized(other) in self._kept() else other
        return template

    def _kept(self) -> frozenset[str]:
        return _normalized_set(self.held_out)


@cache
def _normalized_set(templates: tuple[str, ...]) -> frozenset[str]:
    return frozenset(normalized(template) for template in templates)


def normalized(template: str) -> str:
    """A template without case and punctuation: what decides whether two of them are the same."""
    return " ".join(re.findall(r"[a-z0-9{}/+*×÷=-]+", template.lower()))


@dataclass
class Context:
    """What a skill may use while it writes: randomness, the word pool, and what the conversation already holds.

    `held_out` asks for held-out phrasings, `unseen_values` for values (words, sums) that are never trained on;
    `known` is what the user has told so far; `persona` is the name that the system prompt `system` gave.
    """

    rng: Random
    words: Sequence[str]
    held_out: bool = False
    unseen_values: bool = False
    persona: str | None = None
    system: str | None = None
    known: dict[str, str] = field(default_factory=dict)
    open_prompts: Sequence[str] = ()

    def word(self, low: int = 3, high: int = 9, kind: str = "") -> str:
        """A word of `low` to `high` letters; with `kind`, a tenth of the words is held out for that kind."""
        for _ in range(1000):
            word = self.rng.choice(self.words)
            if low <= len(word) <= high and (not kind or is_held_out(f"{kind}:{word}") == self.unseen_values):
                return word
        raise ValueError(f"no word of {low} to {high} letters in the pool")


@dataclass(frozen=True)
class Skill:
    """A family of questions. `make` writes one dialogue: usually one turn, more where memory is the skill.

    In a dialogue of several turns only the last one is scored. `phrasings` is there for the tests;
    `has_values` says that some of its values are held out too.
    """

    name: str
    make: Callable[[Context], list[Turn]]
    phrasings: tuple[Phrasings, ...]
    weight: float = 1.0
    has_values: bool = False


def is_held_out(value: str, share: int = 10) -> bool:
    """A stable coin: about one in `share` values is held out, the same ones in every process."""
    return hashlib.blake2s(value.encode(), digest_size=4).digest()[0] % share == 0
