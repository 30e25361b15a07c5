"""Capitals of countries, both ways, and the short question after it."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import says
from fcd.builtin.generator.tables import pairs
from fcd.builtin.generator.wrap import loosen, wrap

CAPITAL: Final = Phrasings(
    (
        "What is the capital of {c}?", "Capital of {c}", "capital of {c}?", "What's the capital of {c}?",
        "Which city is the capital of {c}?", "Name the capital of {c}.", "The capital of {c} is?",
        "What is the capital city of {c}?", "What city is the capital of {c}?", "{c}'s capital?",
        "Give me the capital of {c}.", "Which is the capital of {c}?", "What is {c}'s capital?",
        "Capital city of {c}",
        "I need the capital of {c}.", "{c} capital",
    ),
    ("Tell me the capital of {c}.", "Do you know the capital of {c}?", "What's the capital city of {c}?",
     "Can you name the capital of {c}?", "Which city is {c}'s capital?"),
)  # fmt: skip
COUNTRY: Final = Phrasings(
    (
        "{c} is the capital of which country?", "Which country has the capital {c}?",
        "Of which country is {c} the capital?", "What country is {c} the capital of?",
        "Which country's capital is {c}?",
        "{c} is the capital of what?", "Whose capital is {c}?", "Name the country whose capital is {c}.",
    ),
    ("Which country is {c} the capital of?", "Tell me the country whose capital is {c}.",
     "What country has {c} as its capital?"),
)  # fmt: skip
FOLLOW: Final = Phrasings(
    (
        "And {c}, what is its capital?",
        "and what is the capital of {c}",
        "now the one of {c}",
        "How about {c}?",
        "and for {c}",
        "Next: {c}",
        "now {c} please",
        "The same for {c}",
        "And that of {c}?",
        "And now {c}",
        "And of {c}?",
        "And {c}?",
        "and the one of {c}",
        "What about {c}?",
        "And for {c}?",
        "now {c}",
    ),
    ("And what about {c}?", "And the capital of {c}?", "Now for {c}"),
)


def make(ctx: Context) -> list[Turn]:
    """One capital; sometimes followed by a second, asked in short."""
    rng = ctx.rng
    table = pairs("capitals", "pairs", "=")
    country, city = rng.choice(table)
    if rng.random() < 0.25 and not city.startswith(country):
        question = loosen(COUNTRY.pick(ctx), rng).format(c=city)
        return [Turn(wrap(question, rng), f"{city} is the capital of {country}.", says(country))]
    shown = country.removeprefix("the ") if rng.random() < 0.5 else country
    question = wrap(loosen(CAPITAL.pick(ctx), rng).format(c=shown), rng)
    turns = [Turn(question, f"The capital of {country} is {city}.", says(city))]
    if rng.random() < 0.3:
        other, place = rng.choice(table)
        turns.append(Turn(FOLLOW.pick(ctx).format(c=other), f"The capital of {other} is {place}.", says(place)))
    return turns


SKILLS: Final = (Skill("capitals", make, (CAPITAL, COUNTRY, FOLLOW), weight=2.5),)
