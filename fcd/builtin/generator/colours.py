"""Colours of things, and what two colours mix to."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import says
from fcd.builtin.generator.tables import pairs
from fcd.builtin.generator.wrap import loosen, wrap

THING: Final = Phrasings(
    (
        "What colour is {a}?", "What color is {a}?", "Which colour does {a} have?", "Which color is {a}?",
        "The colour of {a}?", "What is the color of {a}?", "What is the colour of {a}?",
        "colour of {a}", "color of {a}", "What colour does {a} have?", "Which color does {a} have?",
        "{a} has which colour?", "Name the color of {a}.",
    ),
    ("Tell me the colour of {a}.", "Which colour is {a}?", "What color does {a} have?", "What's the color of {a}?"),
)  # fmt: skip
MIX: Final = Phrasings(
    (
        "What do you get when you mix {a} and {b}?", "Mix {a} and {b}.", "What colour do {a} and {b} make?",
        "What color do {a} and {b} make?", "{a} and {b} mixed", "{a} plus {b} makes which colour?",
        "What is {a} mixed with {b}?", "Which color is {a} mixed with {b}?", "If I mix {a} and {b}, what do I get?",
        "What does {a} and {b} give?", "Mixing {a} and {b} gives what?",
        "What happens if I mix {a} paint and {b} paint?",
    ),
    ("Which colour do {a} and {b} make?", "What colour do I get from {a} and {b}?",
     "What do I get if I mix {a} with {b}?", "Tell me what {a} and {b} make."),
)  # fmt: skip


def article(noun: str) -> str:
    """`noun` with a or an, or with "the" where there is one, or bare for stuff."""
    if noun in {
        "grass",
        "blood",
        "snow",
        "milk",
        "salt",
        "coal",
        "tar",
        "lavender",
        "chocolate",
        "soil",
        "coffee",
        "wood",
        "ash",
        "gold",
        "silver",
        "broccoli",
        "spinach",
        "sugar",
        "flour",
        "mud",
    }:
        return noun
    if noun in {"sun", "sky", "ocean", "night sky"}:
        return f"the {noun}"
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def make(ctx: Context) -> list[Turn]:
    """A colour as answer."""
    rng = ctx.rng
    if rng.random() < 0.65:
        thing, colour = rng.choice(pairs("colours", "things", " "))
        named = article(thing)
        question = wrap(loosen(THING.pick(ctx), rng).format(a=named), rng)
        text = f"{named[0].upper()}{named[1:]} is {colour}."
        return [Turn(question, text, says(colour))]
    mix, colour = rng.choice(pairs("colours", "mixes", "*"))
    first, _, rest = mix.partition("+")
    second, _, colour = rest.partition(" ")
    question = wrap(loosen(MIX.pick(ctx), rng).format(a=first, b=second), rng)
    return [Turn(question, f"{first.capitalize()} and {second} make {colour}.", says(colour))]


SKILLS: Final = (Skill("colours", make, (THING, MIX), weight=1.5),)
