"""Counting: up, down, in steps, to a number, and how many things a list has."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import in_order, last_number
from fcd.builtin.generator.wrap import loosen, wrap

UP: Final = Phrasings(
    (
            "Count up to {b}, starting at {a}.", "Count to {b} from {a}.", "Count upwards from {a} to {b}.",
            "Count to {b}, from {a} on.", "Starting from {a}, count to {b}.", "From {a} to {b}, count.",
            "all numbers between {a} and {b}", "counting from {a} to {b}", "{a} to {b}, count them",
        "Count from {a} to {b}.", "Count from {a} up to {b}.", "count {a} to {b}",
        "List the numbers from {a} to {b}.", "Write the numbers from {a} to {b}.",
        "Numbers from {a} to {b}", "Give me the numbers {a} to {b}.", "Can you count from {a} to {b}?",
        "Say the numbers from {a} to {b}.", "Print the numbers {a} to {b}.",
        "What numbers are from {a} to {b}?", "Start at {a} and count to {b}.", "Count: {a} to {b}",
        "Show all numbers from {a} to {b}.", "Count up from {a} to {b}",
    ),
    ("Please count from {a} to {b}.", "Could you list the numbers from {a} to {b}?",
     "Give me the numbers from {a} to {b}.", "Count up to {b} from {a}.", "Write all numbers from {a} to {b}."),
)  # fmt: skip
TO: Final = Phrasings(
    (
        "Count to {b}.", "count to {b}", "Count up to {b}.", "Can you count to {b}?", "Say the numbers up to {b}.",
        "List the first {b} numbers.", "Please count to {b}.",
        "Count till {b}.", "Show me how you count to {b}.",
    ),
    ("Could you count to {b}?", "Count up to {b} please.", "Can you count up to {b}?", "I want you to count to {b}."),
)  # fmt: skip
DOWN: Final = Phrasings(
    (
            "Count down to {a}, starting at {b}.", "Count back from {b} to {a}.", "Count backwards to {a} from {b}.",
            "Starting from {b}, count down to {a}.", "From {b} down to {a}, count.", "countdown {b} to {a}",
            "Count down {b} to {a}.", "Give the countdown {b} to {a}.", "Do a countdown from {b} to {a}.",
        "Count down from {b} to {a}.", "Count backwards from {b} to {a}.", "count down {b} to {a}",
        "Countdown from {b} to {a}.", "List the numbers from {b} down to {a}.",
        "Count from {b} down to {a}.", "Can you count down from {b} to {a}?", "Numbers from {b} down to {a}",
        "Write a countdown from {b} to {a}.", "Start at {b} and count down to {a}.",
        "Count in reverse from {b} to {a}.",
    ),
    ("Please count down from {b} to {a}.", "Could you count backwards from {b} to {a}?",
     "Give me a countdown from {b} to {a}.", "Count down to {a} from {b}."),
)  # fmt: skip
STEPS: Final = Phrasings(
    (
            "Count up by {s} from {a} to {b}.", "Count by {s} from {a} to {b}.",
            "In steps of {s}, count from {a} to {b}.", "With steps of {s}, count from {a} up to {b}.",
            "Count from {a} in steps of {s} to {b}.", "Skip count by {s} from {a} to {b}.",
            "Go from {a} to {b} in steps of {s}.", "From {a} to {b} by {s}", "count {a} to {b} in {s}s",
            "Count up in {s}s, from {a} to {b}.",
        "Count by {s}s from {a} to {b}.", "Count from {a} to {b} in steps of {s}.", "Count in {s}s from {a} to {b}.",
        "Count from {a} to {b} by {s}.", "Numbers from {a} to {b} in steps of {s}",
        "List the numbers from {a} to {b} in steps of {s}.", "Every {s} from {a} to {b}",
        "Start at {a}, add {s} each time, stop at {b}.", "Count from {a} to {b} by {s}s.",
    ),
    ("Count up from {a} to {b} in steps of {s}.", "Please count by {s}s from {a} to {b}.",
     "Could you count from {a} to {b} by {s}?", "Count in steps of {s} from {a} to {b}."),
)  # fmt: skip
NEXT: Final = Phrasings(
    (
        "What number comes after {a}?", "What comes after {a}?", "Which number follows {a}?",
        "What is the next number after {a}?", "The number after {a}", "next number after {a}",
        "What number follows {a}?", "Which number comes after {a}?",
    ),
    ("What's the number after {a}?", "Tell me the number that comes after {a}.", "Which is the next number after {a}?"),
)  # fmt: skip
BEFORE: Final = Phrasings(
    (
        "What number comes before {a}?", "What comes before {a}?", "Which number precedes {a}?",
        "What is the number before {a}?", "The number before {a}", "number before {a}",
        "Which number is just before {a}?", "Which number comes before {a}?",
    ),
    ("What's the number before {a}?", "Tell me the number that comes before {a}.",
     "Which is the number just before {a}?"),
)  # fmt: skip
ITEMS: Final = Phrasings(
    (
        "How many words are here: {t}", "Count the words: {t}", "How many words are in this: {t}", "Count these: {t}",
        "How many items are in this list: {t}", "How many things are here: {t}",
        "Count the items: {t}", "How many are these: {t}", "How long is this list: {t}",
        "How many entries does this list have: {t}", "Number of items in: {t}",
    ),
    ("How many items are here: {t}", "Count the words in this list: {t}", "How many words does this list have: {t}",
     "Please count the items: {t}"),
)  # fmt: skip


def _sequence(question: str, numbers: list[int]) -> list[Turn]:
    shown = [str(number) for number in numbers]
    return [Turn(question, ", ".join(shown), in_order(shown, alone=True))]


def make(ctx: Context) -> list[Turn]:
    """Numbers in order, within 0 and 100, at most about twenty of them."""
    rng = ctx.rng
    kind = rng.choice(("up", "up", "to", "down", "down", "steps", "next", "before"))
    if kind in ("next", "before"):
        a = rng.randint(1, 99)
        value = a + 1 if kind == "next" else a - 1
        phrasings = NEXT if kind == "next" else BEFORE
        text = f"{value} comes {'after' if kind == 'next' else 'before'} {a}."
        question = wrap(loosen(phrasings.pick(ctx), rng).format(a=a), rng)
        return [Turn(question, text, in_order([str(value), "comes", *text.rstrip(".").split()[2:]], alone=True))]
    a = rng.choice((0, 1, 1, rng.randint(0, 90)))
    b = a + rng.randint(2, 19)
    step = 1
    if kind == "to":
        a, b = 1, rng.randint(3, 30)
    if kind == "steps":
        step = rng.choice((2, 3, 4, 5, 10))
        b = a + step * rng.randint(2, min(10, max(2, (110 - a) // step)))
    phrasings = {"up": UP, "to": TO, "down": DOWN, "steps": STEPS}[kind]
    question = wrap(loosen(phrasings.pick(ctx), rng).format(a=a, b=b, s=step), rng)
    numbers = list(range(a, b + 1, step))
    return _sequence(question, numbers[::-1] if kind == "down" else numbers)


def make_items(ctx: Context) -> list[Turn]:
    """How many words a list has, by numbering them."""
    rng = ctx.rng
    words = [ctx.word(3, 8) for _ in range(rng.randint(2, 8))]
    separator = rng.choice((", ", ", ", " "))
    question = loosen(ITEMS.pick(ctx), rng).format(t=separator.join(words))
    numbered = " ".join(f"{place} {word}" for place, word in enumerate(words, 1))
    return [Turn(question, f"{numbered}: {len(words)}", last_number(len(words)))]


SKILLS: Final = (
    Skill("counting", make, (UP, TO, DOWN, STEPS, NEXT, BEFORE), weight=2.5),
    Skill("counting words", make_items, (ITEMS,)),
)
