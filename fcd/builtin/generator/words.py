"""The word pool of the letter skills: common words, and made-up ones so that letters are learned, not words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

_FILE: Final = Path(__file__).resolve().parent.parent / "data" / "words.txt"
_STARTS: Final = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "fr",
    "gr",
    "pl",
    "pr",
    "sh",
    "sl",
    "sp",
    "st",
    "th",
    "tr",
]
_MIDDLES: Final = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "oa", "oo", "ou"]
_ENDS: Final = [
    "b",
    "d",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "x",
    "ck",
    "ll",
    "nd",
    "ng",
    "nk",
    "nt",
    "rd",
    "rn",
    "sh",
    "ss",
    "st",
    "th",
    "y",
]


def common_words() -> list[str]:
    """The package's own list of common English words, in lower case."""
    return _FILE.read_text(encoding="utf-8").split()


def made_up_word(rng: Random) -> str:
    """A pronounceable word that need not exist."""
    word = "".join(rng.choice(_STARTS) + rng.choice(_MIDDLES) for _ in range(rng.choice((1, 1, 2))))
    return word + (rng.choice(_ENDS) if rng.random() < 0.7 else "")


def word_pool(seed: int, made_up: int = 2000, pieces: Sequence[str] = ()) -> list[str]:
    """Common words (each three times, so that most questions use a real word), made-up ones, and `pieces`.

    The pieces are the tokenizer's own: each alone and joined to another, so that the spelling of all is learned.
    """
    rng = Random(f"words:{seed}")
    common = common_words()
    known = set(common)
    invented = {made_up_word(rng) for _ in range(made_up)} - known
    joined = [left + rng.choice(pieces) for left in pieces for _ in range(2)]
    return common * 3 + sorted(invented) + [*pieces, *joined]
