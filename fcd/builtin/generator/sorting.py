"""Sorting short lists: numbers up and down, words by the alphabet; largest and smallest of a list."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import in_order, last_number
from fcd.builtin.generator.wrap import loosen, wrap

UP: Final = Phrasings(
    (
            "Sort the numbers: {t}", "Please put {t} in order.", "Numbers in order: {t}", "Order: {t}",
            "Sort from small to large: {t}", "Sort from smallest to largest: {t}", "Sort upwards: {t}",
            "ascending: {t}", "Put them in order: {t}", "Arrange: {t}", "Arrange the numbers {t}.",
            "In order, please: {t}",
        "Sort these numbers: {t}", "Sort: {t}", "Sort {t}.", "Sort the numbers {t}.",
        "Put these numbers in order: {t}", "Order these numbers: {t}", "sort {t}", "Sort {t} from small to large.",
        "Sort these numbers in ascending order: {t}", "Arrange {t} in order.", "Can you sort {t}?",
        "Put {t} in ascending order.", "Order {t} from smallest to largest.",
        "Sort the list {t}.", "Arrange these numbers from smallest to largest: {t}", "{t} sorted",
        "Sort this list: {t}", "Bring {t} into order.", "Sort in ascending order: {t}",
        "What is {t} in order?",
    ),
    (
        "Please sort these numbers: {t}", "Could you put {t} in order?",
        "Arrange these numbers in ascending order: {t}", "Sort the following numbers: {t}",
        "Put the numbers {t} in order.",
        "Order the numbers {t}.",
    ),
)  # fmt: skip
DOWN: Final = Phrasings(
    (
            "Sort the numbers {t} in descending order.", "Sort from largest to smallest: {t}",
            "From largest to smallest: {t}", "Order from largest to smallest: {t}",
            "Arrange from large to small: {t}", "Numbers in descending order: {t}",
            "Sort the numbers from large to small: {t}", "Sort these from largest to smallest: {t}",
            "Sort the following in descending order: {t}", "Sort downwards: {t}", "Largest first: {t}",
            "Sort {t} with the largest first.", "Arrange the numbers {t} in descending order.", "Reverse sort {t}.",
            "Sort {t} in reverse order.", "Order {t} in descending order.",
        "Sort {t} in descending order.", "Sort these numbers from large to small: {t}",
        "Sort {t} from largest to smallest.", "Put {t} in descending order.", "Order {t} from largest to smallest.",
        "Sort in descending order: {t}", "Arrange {t} from largest to smallest.", "Sort {t} downwards.",
        "Sort these numbers in descending order: {t}", "Put these numbers in descending order: {t}",
        "Order these numbers from high to low: {t}", "Can you sort {t} in descending order?", "descending: {t}",
    ),
    (
        "Please sort {t} in descending order.", "Arrange these numbers in descending order: {t}",
        "Sort the following numbers from largest to smallest: {t}", "Could you put {t} in descending order?",
    ),
)  # fmt: skip
WORDS: Final = Phrasings(
    (
            "Sort the words: {t}", "Words in alphabetical order: {t}", "Order alphabetically: {t}",
            "Sort alphabetically: {t}", "Arrange alphabetically: {t}", "Arrange these words: {t}",
            "Alphabetical: {t}", "Put them in alphabetical order: {t}", "Sort the following: {t}",
            "Arrange the words {t} by the alphabet.", "Order the words {t} alphabetically.",
            "Put these in ABC order: {t}", "What is {t} in alphabetical order?",
        "Sort these words: {t}", "Sort these words alphabetically: {t}",
        "Put these words in alphabetical order: {t}", "Sort {t} alphabetically.", "Alphabetical order: {t}",
        "Arrange {t} in alphabetical order.", "Order these words: {t}", "Sort the words {t}.",
        "Sort by alphabet: {t}", "Can you sort {t} alphabetically?", "Sort {t} by the alphabet.",
        "Put {t} in alphabetical order.", "Alphabetize {t}.", "Sort: {t}", "Sort this list: {t}", "sort {t}",
        "Sort the list {t}.", "Order {t} from A to Z.", "Sort from A to Z: {t}",
    ),
    (
        "Please sort these words: {t}", "Could you put {t} in alphabetical order?",
        "Arrange these words alphabetically: {t}", "Sort the following words: {t}",
        "Put the words {t} in alphabetical order.",
        "Sort the words {t} alphabetically.",
    ),
)  # fmt: skip
MAX: Final = Phrasings(
    (
            "Largest: {t}", "Which of these is the largest: {t}", "Find the biggest: {t}", "The largest of {t}",
            "the biggest number of {t}", "Find the largest: {t}",
        "What is the largest of {t}?", "Which is the largest: {t}?", "Largest number: {t}",
        "Find the largest number in {t}.", "What is the biggest number in {t}?", "max of {t}",
        "What is the maximum of {t}?",
        "Which number is the largest: {t}", "Biggest of {t}?", "Give me the largest of {t}.",
        "Which of {t} is the largest?", "The maximum of {t}",
    ),
    ("What is the largest number in {t}?", "Tell me the largest of {t}.", "Which is the biggest of {t}?",
    "Find the maximum of {t}."),
)  # fmt: skip
MIN: Final = Phrasings(
    (
            "Smallest: {t}", "Which of these is the smallest: {t}", "Find the least: {t}", "The smallest of {t}",
            "the smallest number of {t}", "Find the smallest: {t}",
        "What is the smallest of {t}?", "Which is the smallest: {t}?", "Smallest number: {t}",
        "Find the smallest number in {t}.", "What is the least number in {t}?", "min of {t}",
        "What is the minimum of {t}?",
        "Which number is the smallest: {t}", "Smallest of {t}?", "Give me the smallest of {t}.",
        "Which of {t} is the smallest?", "The minimum of {t}",
    ),
    ("What is the smallest number in {t}?", "Tell me the smallest of {t}.", "Find the minimum of {t}.",
    "Please name the smallest of {t}."),
)  # fmt: skip


def join(items: list[str], ctx: Context, last: bool = True) -> str:
    """Items as people list them: with commas, with spaces, or with a last "and"."""
    draw = ctx.rng.random()
    if draw < 0.2 and last:
        return ", ".join(items[:-1]) + " and " + items[-1]
    return " ".join(items) if draw < 0.4 else ", ".join(items)


def make_numbers(ctx: Context) -> list[Turn]:
    """Three to seven different numbers from 0 to 100."""
    rng = ctx.rng
    numbers = rng.sample(range(101), rng.choice((3, 3, 4, 4, 5, 5, 6, 7)))
    down = rng.random() < 0.35
    template = loosen((DOWN if down else UP).pick(ctx), rng)
    ordered = [str(number) for number in sorted(numbers, reverse=down)]
    question = wrap(template.format(t=join([str(n) for n in numbers], ctx)), rng, share=0.15)
    return [Turn(question, ", ".join(ordered), in_order(ordered, alone=True))]


def make_words(ctx: Context) -> list[Turn]:
    """Three to five words, most with different first letters."""
    rng = ctx.rng
    size = rng.choice((3, 3, 4, 4, 5))
    words: list[str] = []
    while len(words) < size:
        word = ctx.word(3, 8)
        clash = any(word[0] == other[0] for other in words)
        if word not in words and (not clash or rng.random() < 0.05):
            words.append(word)
    question = loosen(WORDS.pick(ctx), rng).format(t=join(words, ctx))
    ordered = sorted(words)
    return [Turn(wrap(question, rng, share=0.15), ", ".join(ordered), in_order(ordered, alone=True))]


def make_extreme(ctx: Context) -> list[Turn]:
    """The largest or the smallest of three to six numbers."""
    rng = ctx.rng
    numbers = rng.sample(range(101), rng.randint(3, 6))
    largest = rng.random() < 0.5
    value = max(numbers) if largest else min(numbers)
    template = loosen((MAX if largest else MIN).pick(ctx), rng)
    question = wrap(template.format(t=join([str(n) for n in numbers], ctx)), rng, share=0.15)
    return [Turn(question, f"The {'largest' if largest else 'smallest'} is {value}.", last_number(value))]


SKILLS: Final = (
    Skill("sorting numbers", make_numbers, (UP, DOWN), weight=3.0),
    Skill("sorting words", make_words, (WORDS,), weight=3.0),
    Skill("largest and smallest", make_extreme, (MAX, MIN)),
)
