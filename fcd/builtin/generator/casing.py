"""Upper case, lower case, capital first letters."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn, letters
from fcd.builtin.generator.checks import exactly
from fcd.builtin.generator.wrap import loosen

UPPER: Final = Phrasings(
    (
            "to uppercase: {t}", "{t} to upper case", "I need {t} in upper case.", "Show {t} in uppercase.",
            "Rewrite {t} in upper case.", "Write this in upper case: {t}", "Put this in uppercase: {t}",
            "Convert to uppercase: {t}", "make this upper case: {t}", "Change to upper case: {t}",
            "Give me {t} in upper case.", "Transform {t} to upper case.", "Type {t} in upper case.",
        "Write {t} in upper case.", "Write {t} in uppercase.", "Uppercase: {t}", "Convert {t} to upper case.",
        "Put {t} in capital letters.", "{t} in capitals",
        "Make {t} upper case.", "Turn {t} into capital letters.", "upper case: {t}", "Change {t} to uppercase.",
        "Can you write {t} in capitals?", "{t} in upper case please",
        "What is {t} in upper case?", "Capitalize every letter of {t}.", "Write {t} in all caps.", "{t} in uppercase",
        "Write {t} with capital letters.", "Make {t} all caps.",
        "uppercase {t}", "In capital letters: {t}",
    ),
    (
        "Please write {t} in upper case.", "Convert {t} to uppercase.", "Put {t} in upper case.",
        "Could you write {t} in capital letters?", "Turn {t} into upper case.",
        "Make {t} uppercase.",
    ),
)  # fmt: skip
LOWER: Final = Phrasings(
    (
            "to lowercase: {t}", "{t} to lower case", "I need {t} in lower case.", "Show {t} in lowercase.",
            "Rewrite {t} in lower case.", "Write this in lower case: {t}", "Put this in lowercase: {t}",
            "Convert to lowercase: {t}", "make this lower case: {t}", "Change to lower case: {t}",
            "Give me {t} in lower case.", "Transform {t} to lower case.", "Type {t} in lower case.",
        "Write {t} in lower case.", "Write {t} in lowercase.", "Lowercase: {t}", "Convert {t} to lower case.",
        "Put {t} in small letters.", "{t} in small letters",
        "Make {t} lower case.", "Turn {t} into small letters.", "lower case: {t}", "Change {t} to lowercase.",
        "Can you write {t} in lower case?", "{t} in lower case please",
        "What is {t} in lower case?", "Write {t} without capitals.", "{t} in lowercase",
        "Write {t} with small letters.", "lowercase {t}", "In small letters: {t}",
    ),
    (
        "Please write {t} in lower case.", "Convert {t} to lowercase.", "Put {t} in lower case.",
        "Could you write {t} in small letters?", "Turn {t} into lower case.",
        "Make {t} lowercase.",
    ),
)  # fmt: skip
TITLE: Final = Phrasings(
    (
            "Put this in title case: {t}", "Please capitalize {t}.", "Title-case {t}.", "I need {t} in title case.",
            "Show {t} in title case.", "Make this title case: {t}",
            "Write this in title case: {t}", "Make each word of {t} start with a capital.", "to title case: {t}",
            "Rewrite {t} in title case.", "Give me {t} in title case.", "Capitalize all words: {t}",
            "Capitalize this: {t}", "Each word with a capital: {t}", "Put a capital at the start of each word: {t}",
        "Capitalize {t}.", "Write {t} in title case.", "Title case: {t}", "Convert {t} to title case.",
        "Capitalize each word of {t}.", "Make the first letter of every word of {t} a capital.",
        "Put {t} in title case.", "Capitalize every word: {t}", "Capitalize the words {t}.", "{t} in title case",
        "Change {t} to title case.",
    ),
    ("Please put {t} in title case.", "Turn {t} into title case.", "Capitalize each word: {t}", "Make {t} title case."),
)  # fmt: skip


def make(ctx: Context) -> list[Turn]:
    """One to three words in another case."""
    rng = ctx.rng
    text = " ".join(ctx.word(2, 8, "case") for _ in range(rng.choice((1, 1, 2, 2, 3))))
    phrasings = rng.choice((UPPER, UPPER, LOWER, LOWER, TITLE))
    if phrasings is UPPER:
        shown, result = rng.choice((text, text, text.title())), text.upper()
    elif phrasings is LOWER:
        shown, result = rng.choice((text.upper(), text.upper(), text.title())), text
    else:
        shown, result = text, text.title()
    quotes = rng.choice(('"{}"', "'{}'", "{}", "{}"))
    question = loosen(phrasings.pick(ctx), rng).format(t=quotes.format(shown))
    return [Turn(question, letters(result), exactly(result))]


SKILLS: Final = (Skill("upper and lower case", make, (UPPER, LOWER, TITLE), weight=6.0, has_values=True),)
