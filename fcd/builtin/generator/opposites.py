"""Opposites of common words."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import says_any
from fcd.builtin.generator.tables import pairs
from fcd.builtin.generator.wrap import loosen, wrap

OPPOSITE: Final = Phrasings(
    (
        "What is the opposite of {w}?", "Opposite of {w}", "opposite of {w}?", "What's the opposite of {w}?",
        "Give me the opposite of {w}.", "The opposite of {w} is?", "What is the antonym of {w}?",
        "Antonym of {w}", "Name the opposite of {w}.", "Find the opposite of {w}.",
        "What word means the opposite of {w}?", "Say the opposite of {w}.", "What is the contrary of {w}?",
        "{w}: opposite?", "Which word is the opposite of {w}?", "the opposite of the word {w}",
        "Give an antonym of {w}.", "What is the opposite of the word {w}?", "not {w}, but?",
        "I need the opposite of {w}.",
    ),
    (
        "Tell me the opposite of {w}.", "Can you name the opposite of {w}?", "What would be the opposite of {w}?",
        "Give me an antonym of {w}.", "Which word means the opposite of {w}?",
        "Do you know the opposite of {w}?",
    ),
)  # fmt: skip


def make(ctx: Context) -> list[Turn]:
    """One word and its opposite; every entry of the table that fits is right."""
    table = pairs("opposites", "pairs", " ")
    word = ctx.rng.choice(table)[0]
    options = [right for left, right in table if left == word]
    shown = word if ctx.rng.random() < 0.7 else f'"{word}"'
    question = wrap(loosen(OPPOSITE.pick(ctx), ctx.rng).format(w=shown), ctx.rng)
    return [Turn(question, f"The opposite of {word} is {options[0]}.", says_any(options))]


SKILLS: Final = (Skill("opposites", make, (OPPOSITE,), weight=1.5),)
