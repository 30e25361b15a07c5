"""Saying something again: as it is, several times, or with one change."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import exactly, in_order
from fcd.builtin.generator.wrap import loosen

REPEAT: Final = Phrasings(
    (
            "Repeat the words: {t}", "Repeat exactly this: {t}", "Please echo: {t}", "Say these words: {t}",
            "Say it: {t}", "Say back: {t}", "Write exactly: {t}", "Write the following: {t}", "Output: {t}",
            "Answer with: {t}", "Reply with: {t}", "Only say: {t}",
        "Repeat after me: {t}", "Repeat: {t}", "Say: {t}", "Say {t}", "Repeat this: {t}", "Please repeat: {t}",
        "Say this: {t}", "Echo: {t}", "echo {t}", "Repeat the following: {t}", "Copy this: {t}",
        "Write this: {t}", "Just say: {t}", "Print: {t}", "Say exactly this: {t}", "Repeat these words: {t}",
        "Can you say: {t}", "Type this: {t}",
    ),
    ("Please say: {t}", "Repeat exactly: {t}", "Can you repeat this: {t}", "Say the following: {t}",
    "Repeat what I say: {t}"),
)  # fmt: skip
TIMES: Final = Phrasings(
    (
            "{n} times {w}", "Write out {w} {n} times.", "Write {w} exactly {n} times.", "Say {w} for {n} times.",
            "Give me {w} {n} times.", "Repeat {w} for {n} times.", "Output {w} {n} times.",
            "the word {w} {n} times", "Repeat this word {n} times: {w}", "Say this {n} times: {w}",
        "Say {w} {n} times.", "Repeat {w} {n} times.", "Write {w} {n} times.", "Repeat the word {w} {n} times.",
        "{w} {n} times", "Say the word {w} {n} times.", "Print {w} {n} times.",
        "Can you say {w} {n} times?", "Type {w} {n} times.", "Echo {w} {n} times.", "I want to hear {w} {n} times.",
    ),
    ("Write the word {w} {n} times.", "Please repeat {w} {n} times.", "Could you say {w} {n} times?",
    "Please write {w} {n} times."),
)  # fmt: skip
REPLACE: Final = Phrasings(
    (
            "Take this and replace {a} with {b}: {t}", "Replace {a} with {b} here: {t}",
            "Please change {a} to {b}: {t}", "Please put {b} for {a}: {t}", "Change word {a} to {b}: {t}",
            "In this sentence, change {a} to {b}: {t}",
            "Replace {a} with {b} in: {t}", "Replace {a} with {b} in this: {t}", "Change {a} to {b} in: {t}",
            "Change every {a} to {b}: {t}", "Replace the {a} with {b}: {t}", "Replace the word {a} by {b}: {t}",
            "Change the word {a} into {b}: {t}", "Change {a} into {b}: {t}", "Use {b} instead of {a}: {t}",
            "Say the same with {b} instead of {a}: {t}", "Exchange {a} for {b}: {t}",
            "Write {b} where it says {a}: {t}", "Replace word {a} with word {b}: {t}",
            "Swap the word {a} for {b} in: {t}", "Repeat and replace {a} by {b}: {t}",
            "In this text replace {a} with {b}: {t}",
        "Repeat this, but replace {a} with {b}: {t}", "Replace {a} with {b}: {t}", "Replace {a} by {b} in: {t}",
        "Say this with {b} instead of {a}: {t}", "Write this with {b} for {a}: {t}",
        "Change {a} to {b}: {t}", "Change {a} to {b} in this: {t}", "Swap {a} for {b}: {t}",
        "Put {b} in place of {a}: {t}", "In this, replace {a} with {b}: {t}", "Repeat with {b} instead of {a}: {t}",
        "Substitute {b} for {a}: {t}",
    ),
    ("Please replace {a} with {b}: {t}", "Repeat this with {b} instead of {a}: {t}",
    "Change the word {a} to {b}: {t}", "Replace the word {a} with {b} in: {t}"),
)  # fmt: skip
APPEND: Final = Phrasings(
    (
            "End this with {b}: {t}", "Add the word {b} at the end: {t}", "Add {b} at the end of: {t}",
            "Add {b} after the last word: {t}", "Let this end with {b}: {t}", "Add {b} behind: {t}",
            "Repeat this and end with {b}: {t}",
        "Repeat this and add {b} at the end: {t}", "Add {b} to the end: {t}",
        "Say this and put {b} at the end: {t}", "Append {b}: {t}", "Put {b} at the end of: {t}",
        "Add {b} at the end: {t}",
        "Repeat with {b} at the end: {t}", "Write this with {b} at the end: {t}", "Append {b} to: {t}",
    ),
    ("Please add {b} at the end: {t}", "Repeat this with {b} at the end: {t}", "Put {b} at the end of this: {t}"),
)  # fmt: skip
PREPEND: Final = Phrasings(
    (
            "Start this with {b}: {t}", "Add the word {b} at the start: {t}", "Add {b} at the start of: {t}",
            "Add {b} before the first word: {t}", "Let this begin with {b}: {t}", "Put {b} before: {t}",
            "Put {b} at the beginning: {t}", "Put {b} first: {t}",
        "Repeat this and add {b} at the start: {t}", "Add {b} to the start: {t}",
        "Say this and put {b} at the start: {t}", "Prepend {b}: {t}", "Put {b} in front of: {t}",
        "Add {b} at the start: {t}",
        "Repeat with {b} at the start: {t}", "Put {b} at the start of: {t}", "Add {b} at the beginning: {t}",
        "Begin this with {b}: {t}",
    ),
    ("Please add {b} at the start: {t}", "Repeat this with {b} at the start: {t}", "Add {b} to the beginning: {t}",
    "Put {b} at the start of this: {t}"),
)  # fmt: skip
LAST: Final = Phrasings(
    (
            "Without the last word: {t}", "Cut the last word: {t}", "Cut off the last word: {t}",
            "Repeat all but the last word: {t}", "Everything but the last word: {t}",
            "Take away the last word: {t}", "Remove the final word: {t}", "Skip the last word: {t}",
            "Remove the last word from: {t}", "Remove the word at the end: {t}",
        "Repeat this without the last word: {t}", "Remove the last word: {t}", "Drop the last word: {t}",
        "Say this without the last word: {t}", "Delete the last word of: {t}", "Leave out the last word: {t}",
        "Write this without its last word: {t}",
    ),
    ("Please remove the last word: {t}", "Repeat without the last word: {t}", "Remove the last word of this: {t}"),
)  # fmt: skip
_SMALL: Final = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_GLUE: Final = ["the", "a", "my", "your", "and", "in", "on", "with", "is", "was", "to", "from", "for", "of"]


def _sentence(ctx: Context) -> list[str]:
    words: list[str] = []
    for _ in range(ctx.rng.randint(2, 8)):
        word = ctx.rng.choice(_GLUE) if ctx.rng.random() < 0.3 else ctx.word(2, 8)
        if word not in words:
            words.append(word)
    return words if len(words) > 1 else [*words, ctx.word(9, 12)]


def make(ctx: Context) -> list[Turn]:
    """A text of up to eight words again."""
    rng = ctx.rng
    kind = rng.choice(("same", "same", "times", "replace", "replace", "append", "prepend", "last"))
    if kind == "times":
        word = ctx.word(2, 8)
        shown, count = rng.choice(list(_SMALL.items()))
        if rng.random() < 0.5:
            shown = str(count)
        question = loosen(TIMES.pick(ctx), rng).format(w=word if rng.random() < 0.6 else f'"{word}"', n=shown)
        return [Turn(question, " ".join([word] * count), in_order([word] * count, alone=True))]
    words = _sentence(ctx)
    other = ctx.word(3, 8)
    phrasings = {"same": REPEAT, "replace": REPLACE, "append": APPEND, "prepend": PREPEND, "last": LAST}[kind]
    old = rng.choice(words)
    capital = rng.random() < 0.3 and kind == "same"
    text = " ".join(words)
    if capital:
        text = text[0].upper() + text[1:] + rng.choice((".", "!", "?", ""))
    question = loosen(phrasings.pick(ctx), rng).format(t=text, a=old, b=other)
    result = {
        "same": text,
        "replace": " ".join(other if word == old else word for word in words),
        "append": f"{text} {other}",
        "prepend": f"{other} {text}",
        "last": " ".join(words[:-1]),
    }[kind]
    return [Turn(question, result, exactly(result))]


SKILLS: Final = (Skill("repeating", make, (REPEAT, TIMES, REPLACE, APPEND, PREPEND, LAST), weight=4.0),)
