"""Sums up to 100: plus, minus, times, divided by, and comparing two numbers."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn, is_held_out
from fcd.builtin.generator.checks import last_number, says
from fcd.builtin.generator.wrap import loosen, wrap

_WORDS: Final = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]

PHRASES: Final[dict[str, Phrasings]] = {
    "+": Phrasings(
        (
            "{a} + {b} is what?", "{a} + {b} equals what?", "{a} and {b} make?", "What is {a} added to {b}?",
            "{a} + {b} makes?", "What will I get if I add {a} and {b}?", "If you add {a} and {b}, what is it?",
            "What does {a} plus {b} make?", "What does {a} plus {b} equal?", "{a} plus {b} =",
            "How many are {a} and {b}?", "Sum up {a} and {b}.", "Give me the sum of {a} and {b}.",
            "Give the result of {a} + {b}.", "the result of {a} + {b}?", "{a} plus {b}, how much is that?",
            "What number is {a} + {b}?",
            "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=?", "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "How much is {a} plus {b}?", "Calculate {a} + {b}.", "What do {a} and {b} add up to?",
            "Compute {a} + {b}",
            "What's the sum of {a} and {b}?", "Sum of {a} and {b}", "{a} plus {b}",
            "I have {a} apples and get {b} more. How many?",
            "Work out {a} + {b} for me.", "What is the total of {a} and {b}?",
            "If I add {b} to {a}, what do I get?", "solve {a} + {b}",
            "How many is {a} and {b} together?", "{a} plus {b} is what?", "Add {b} to {a}",
        ),
        (
            "What does {a} + {b} equal?", "Can you add {a} and {b} for me?",
            "What do I get when I add {a} and {b}?", "{a} plus {b} equals?",
            "How much is {a} + {b}?", "Tell me the sum of {a} and {b}.",
        ),
    ),
    "-": Phrasings(
        (
            "{a} - {b} is what?", "{a} - {b} equals what?", "What does {a} minus {b} make?",
            "What does {a} minus {b} equal?", "{a} minus {b} =", "What is left when I take {b} from {a}?",
            "What will I get if I subtract {b} from {a}?", "If you take {b} away from {a}, what is left?",
            "What is {b} less than {a}?", "Give the result of {a} - {b}.", "{a} take away {b}",
            "What is {a} take away {b}?", "the result of {a} - {b}?", "{a} minus {b}, how much is that?",
            "Remove {b} from {a}.", "Take {b} from {a}.", "Give me the difference of {a} and {b}.",
            "What number is {a} - {b}?",
            "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} =", "{a}-{b}=?", "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "How much is {a} minus {b}?", "Calculate {a} - {b}.", "Compute {a} - {b}", "Take {b} away from {a}.",
            "{a} minus {b}",
            "What is the difference between {a} and {b}?", "I have {a} apples and eat {b}. How many are left?",
            "solve {a} - {b}",
            "Work out {a} - {b} for me.", "If I take {b} from {a}, what is left?", "{a} minus {b} is what?",
            "What remains of {a} after removing {b}?",
        ),
        (
            "What does {a} - {b} equal?", "Can you subtract {b} from {a}?",
            "What do I get when I take {b} from {a}?", "{a} minus {b} equals?",
            "How much is {a} - {b}?", "Tell me the difference between {a} and {b}.",
        ),
    ),
    "*": Phrasings(
        (
            "{a} * {b} is what?", "{a} * {b} equals what?", "What does {a} times {b} make?",
            "What does {a} times {b} equal?", "{a} times {b} =", "What will I get if I multiply {a} by {b}?",
            "If you multiply {a} and {b}, what is it?", "Give the result of {a} x {b}.", "the result of {a} * {b}?",
            "{a} times {b}, how much is that?", "Multiply {a} and {b}.", "{a} multiplied by {b}",
            "{a} multiplied by {b} is?", "Give me the product of {a} and {b}.", "What number is {a} x {b}?",
            "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} * {b} =", "{a}x{b}=?",
            "What is {a} times {b}?", "Multiply {a} by {b}.",
            "How much is {a} times {b}?", "Calculate {a} * {b}.", "Compute {a} x {b}", "{a} times {b}",
            "What is the product of {a} and {b}?",
            "What is {a} multiplied by {b}?", "solve {a} * {b}", "Work out {a} x {b} for me.",
            "{a} times {b} is what?", "Product of {a} and {b}",
            "{a} × {b}", "What is {a} × {b}?", "I have {a} bags with {b} apples each. How many apples?",
        ),
        (
            "What does {a} * {b} equal?", "Can you multiply {a} by {b}?",
            "What do I get when I multiply {a} and {b}?", "{a} times {b} equals?",
            "How much is {a} x {b}?", "Tell me the product of {a} and {b}.",
        ),
    ),
    "/": Phrasings(
        (
            "{a} / {b} is what?", "{a} / {b} equals what?", "What does {a} divided by {b} make?",
            "What does {a} divided by {b} equal?", "{a} divided by {b} =",
            "What will I get if I divide {a} by {b}?", "If you divide {a} by {b}, what is it?",
            "Give the result of {a} / {b}.", "the result of {a} / {b}?", "{a} divided by {b}, how much is that?",
            "{a} over {b}", "How often does {b} go into {a}?", "What number is {a} / {b}?",
            "Divide {a} into {b} parts.",
            "What is {a} / {b}?", "{a} / {b}", "{a}/{b}", "{a} / {b} =", "{a}/{b}=?", "What is {a} divided by {b}?",
            "Divide {a} by {b}.",
            "How much is {a} divided by {b}?", "Calculate {a} / {b}.", "Compute {a} / {b}", "{a} divided by {b}",
            "solve {a} / {b}",
            "How many times does {b} go into {a}?", "Work out {a} / {b} for me.", "{a} divided by {b} is what?",
            "Split {a} into {b} equal parts.",
            "{a} ÷ {b}", "What is {a} ÷ {b}?", "I share {a} apples among {b} people. How many does each get?",
        ),
        (
            "What does {a} / {b} equal?", "Can you divide {a} by {b}?", "What do I get when I divide {a} by {b}?",
            "{a} divided by {b} equals?",
            "How much is {a} / {b}?", "Tell me what {a} divided by {b} is.",
        ),
    ),
}  # fmt: skip

DOUBLE: Final = Phrasings(
    (
            "What do I get when I double {a}?", "What is {a} doubled?", "{a} doubled", "the double of {a}",
            "If I double {a}, what is it?", "Calculate the double of {a}.", "Calculate double {a}.",
            "Compute twice {a}.", "two times {a}", "Give me twice {a}.", "What is double {a}?", "Double {a}.",
            "What is twice {a}?", "Twice {a}", "What is two times {a}?", "double {a}", "How much is twice {a}?"),
    ("Tell me double {a}.", "How much is double {a}?", "What is the double of {a}?"),
)  # fmt: skip
HALF: Final = Phrasings(
    (
            "What is {a} halved?", "{a} halved", "If I halve {a}, what is it?", "Give me half of {a}.",
            "the half of {a}", "What is the half of {a}?", "Cut {a} in half.", "Divide {a} in half.", "halve {a}",
            "What will I get if I halve {a}?", "one half of {a}", "Compute half of {a}.", "What is half of {a}?",
            "Half of {a}", "Halve {a}.", "How much is half of {a}?", "Calculate half of {a}.",
            "What's half of {a}?"),
    ("Tell me half of {a}.", "What do I get when I halve {a}?", "Can you halve {a}?"),
)  # fmt: skip
LARGER: Final = Phrasings(
    (
        "Which is larger, {a} or {b}?", "Which is bigger: {a} or {b}?", "What is greater, {a} or {b}?",
        "Is {a} or {b} larger?",
        "Which number is bigger, {a} or {b}?", "the larger of {a} and {b}",
        "Give me the bigger number: {a} or {b}.", "max of {a} and {b}",
    ),
    ("Which one is larger, {a} or {b}?", "Which of {a} and {b} is bigger?", "Is {a} or {b} the bigger number?"),
)  # fmt: skip
SMALLER: Final = Phrasings(
    (
        "Which is smaller, {a} or {b}?", "Which is less: {a} or {b}?", "What is smaller, {a} or {b}?",
        "Is {a} or {b} smaller?",
        "Which number is smaller, {a} or {b}?", "the smaller of {a} and {b}",
        "Give me the smaller number: {a} or {b}.", "min of {a} and {b}",
    ),
    ("Which one is smaller, {a} or {b}?", "Which of {a} and {b} is smaller?", "Is {a} or {b} the smaller number?"),
)  # fmt: skip
EVEN: Final = Phrasings(
    (
        "Is {a} even or odd?", "Is {a} an even number?", "Is {a} odd?", "Is {a} even?", "{a}: even or odd?",
        "Is the number {a} even or odd?",
        "Even or odd: {a}", "Is {a} an odd number?",
    ),
    ("Tell me whether {a} is even or odd.", "Is the number {a} odd or even?", "Would you call {a} even or odd?"),
)  # fmt: skip


def _numbers(ctx: Context, operator: str) -> tuple[int, int, int]:
    """Two operands and the result. A tenth of the sums and differences is held out by value."""
    rng = ctx.rng
    while True:
        if operator == "+":
            a = rng.randint(0, 100)
            b = rng.randint(0, 100 - a)
            value = a + b
        elif operator == "-":
            a = rng.randint(0, 100)
            b = rng.randint(0, a if rng.random() < 0.9 else 100)
            value = a - b
        elif operator == "*":
            a, b = rng.choice(((rng.randint(0, 12), rng.randint(0, 12)), (rng.randint(2, 10), rng.randint(2, 10))))
            if rng.random() < 0.2:
                b = rng.randint(2, 8)
                a = rng.randint(2, 100 // b)
            return a, b, a * b
        else:
            b, value = rng.randint(1, 12), rng.randint(0, 12)
            return b * value, b, value
        if is_held_out(f"{a}{operator}{b}") == ctx.unseen_values:
            return a, b, value


def _spoken(number: int, ctx: Context) -> str:
    return _WORDS[number] if 0 <= number <= 20 and ctx.rng.random() < 0.1 else str(number)


def make_sum(ctx: Context) -> list[Turn]:
    """One sum with its result."""
    rng = ctx.rng
    operator = rng.choices(("+", "-", "*", "/"), (4, 4, 3, 2))[0]
    a, b, value = _numbers(ctx, operator)
    template = loosen(PHRASES[operator].pick(ctx), rng)
    words = any(mark in template for mark in ("plus", "minus", "times", "divided"))
    left, right = (_spoken(a, ctx), _spoken(b, ctx)) if words else (str(a), str(b))
    question = template.format(a=left, b=right)
    sign = {"*": "×", "/": "÷"}.get(operator, operator)
    answer = f"{a} {sign} {b} = {value}"
    return [Turn(wrap(question, rng), answer, last_number(value))]


def make_compare(ctx: Context) -> list[Turn]:
    """Twice, half, the larger of two, even or odd."""
    rng = ctx.rng
    kind = rng.randrange(5)
    if kind == 0:
        a = rng.randint(0, 50)
        return [
            Turn(wrap(loosen(DOUBLE.pick(ctx), rng).format(a=a), rng), f"Twice {a} is {2 * a}.", last_number(2 * a))
        ]
    if kind == 1:
        a = 2 * rng.randint(0, 50)
        return [
            Turn(wrap(loosen(HALF.pick(ctx), rng).format(a=a), rng), f"Half of {a} is {a // 2}.", last_number(a // 2))
        ]
    if kind == 4:
        a = rng.randint(0, 100)
        word = "odd" if a % 2 else "even"
        return [Turn(wrap(loosen(EVEN.pick(ctx), rng).format(a=a), rng), f"{a} is {word}.", says(word))]
    a, b = rng.sample(range(101), 2)
    larger = kind == 2
    best = max(a, b) if larger else min(a, b)
    question = loosen((LARGER if larger else SMALLER).pick(ctx), rng).format(a=a, b=b)
    answer = f"{best} is {'larger' if larger else 'smaller'}."
    return [Turn(wrap(question, rng), answer, last_number(best))]


SKILLS: Final = (
    Skill("arithmetic", make_sum, tuple(PHRASES.values()), weight=4.5, has_values=True),
    Skill("comparing numbers", make_compare, (DOUBLE, HALF, LARGER, SMALLER, EVEN), weight=2.0),
)
