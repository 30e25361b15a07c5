"""Days of the week and months: next, previous, number, length."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import last_number, last_word
from fcd.builtin.generator.tables import lists
from fcd.builtin.generator.wrap import loosen, wrap

_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ORDINALS: Final = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]

AFTER: Final = Phrasings(
    (
        "What {k} comes after {d}?", "What comes after {d}?", "Which {k} follows {d}?", "What is the {k} after {d}?",
        "Which {k} comes after {d}?", "the {k} after {d}", "What {k} follows {d}?",
        "After {d} comes which {k}?", "next {k} after {d}", "{d} is followed by which {k}?",
        "Name the {k} after {d}.", "What is the next {k} after {d}?", "What follows {d}?",
    ),
    ("Which {k} is after {d}?", "Tell me the {k} after {d}.", "What's the {k} that follows {d}?",
     "What {k} is next after {d}?", "Do you know which {k} comes after {d}?"),
)  # fmt: skip
BEFORE: Final = Phrasings(
    (
        "What {k} comes before {d}?", "What comes before {d}?", "Which {k} precedes {d}?",
        "What is the {k} before {d}?", "Which {k} comes before {d}?", "the {k} before {d}", "previous {k} before {d}",
        "Before {d} comes which {k}?", "Name the {k} before {d}.", "What {k} is before {d}?",
        "What {k} was before {d}?", "What precedes {d}?",
    ),
    ("Which {k} is before {d}?", "Tell me the {k} before {d}.", "What's the {k} that comes before {d}?",
     "Do you know which {k} comes before {d}?"),
)  # fmt: skip
NUMBER: Final = Phrasings(
    (
            "the {n} {k}", "{n} {k} of the year?", "In a year, which {k} is the {n}?",
            "Which {k} of the year is the {n}?", "Which {k} comes {n} in the year?",
        "What is the {n} {k} of the year?", "Which is the {n} {k}?", "What's the {n} {k} of the year?",
        "the {n} {k} of the year", "Name the {n} {k} of the year.", "Which {k} is the {n} of the year?",
        "Which {k} is the {n}?", "What is the {n} {k}?",
    ),
    ("Tell me the {n} {k} of the year.", "Which is the {n} {k} of the year?", "What would the {n} {k} be?"),
)  # fmt: skip
WEEKDAY: Final = Phrasings(
    (
            "What is day number {n} of the week?", "the {n} weekday", "Which weekday is the {n}?",
            "What is the {n} weekday?", "Which day is {n} in the week?", "In a week, which day is the {n}?",
            "Of the week, what is the {n} day?",
        "What is the {n} day of the week?", "Which is the {n} day of the week?", "What's the {n} day of the week?",
        "the {n} day of the week", "Name the {n} day of the week.", "Which day is the {n} of the week?",
    ),
    ("Tell me the {n} day of the week.", "Which day of the week is the {n}?"),
)  # fmt: skip
LENGTH: Final = Phrasings(
    (
        "How many days does {d} have?", "How many days are in {d}?", "How many days has {d}?", "How long is {d}?",
        "Days in {d}", "What is the number of days in {d}?", "How many days are there in {d}?",
        "Number of days in {d}", "{d} has how many days?",
    ),
    ("Tell me how many days {d} has.", "How many days long is {d}?", "Do you know how many days are in {d}?"),
)  # fmt: skip
TOMORROW: Final = Phrasings(
    (
            "Today is {d}. And tomorrow?", "If it's {d} today, what is tomorrow?",
            "What is tomorrow if today is {d}?", "What day will tomorrow be if today is {d}?",
            "Today's {d}. What will tomorrow be?", "It is {d}, what day comes tomorrow?",
            "When today is {d}, tomorrow is what?", "What day is tomorrow when today is {d}?",
            "If today is {d} then tomorrow is",
        "If today is {d}, what is tomorrow?", "Today is {d}. What day is tomorrow?",
        "If it is {d} today, what day is it tomorrow?", "Today is {d}, so tomorrow is?",
        "It is {d}. Which day is tomorrow?",
        "If today is {d}, which day is tomorrow?",
    ),
    ("If today is {d}, what day will it be tomorrow?", "It's {d} today. What is tomorrow?",
     "Today is {d}; which day comes tomorrow?"),
)  # fmt: skip
YESTERDAY: Final = Phrasings(
    (
            "Today is {d}. And yesterday?", "If it's {d} today, what was yesterday?",
            "What was yesterday if today is {d}?", "What day was yesterday if today is {d}?",
            "Today's {d}. What day was it yesterday?", "It is {d}, what day was yesterday?",
            "When today is {d}, yesterday was what?", "If today is {d} then yesterday was",
        "If today is {d}, what was yesterday?", "Today is {d}. What day was yesterday?",
        "If it is {d} today, what day was it yesterday?", "Today is {d}, so yesterday was?",
        "It is {d}. Which day was yesterday?",
        "If today is {d}, which day was yesterday?",
    ),
    ("If today is {d}, what day was it yesterday?", "It's {d} today. What was yesterday?",
     "Today is {d}; which day was yesterday?"),
)  # fmt: skip


def _neighbour(ctx: Context, names: tuple[str, ...], kind: str) -> list[Turn]:
    rng = ctx.rng
    place = rng.randrange(len(names))
    after = rng.random() < 0.6
    name = names[(place + (1 if after else -1)) % len(names)]
    question = loosen((AFTER if after else BEFORE).pick(ctx), rng).format(k=kind, d=names[place])
    answer = f"{'After' if after else 'Before'} {names[place]} comes {name}."
    return [Turn(wrap(question, rng), answer, last_word(name))]


def make(ctx: Context) -> list[Turn]:
    """A day, a month, or a number of days."""
    rng = ctx.rng
    days, months = lists()["days"], lists()["months"]
    kind = rng.choice(("day", "day", "month", "month", "number", "weekday", "length", "today", "today"))
    if kind in ("day", "month"):
        return _neighbour(ctx, days if kind == "day" else months, kind)
    if kind == "number":
        place = rng.randrange(12)
        question = loosen(NUMBER.pick(ctx), rng).format(n=_ORDINALS[place], k="month")
        return [
            Turn(wrap(question, rng), f"The {_ORDINALS[place]} month is {months[place]}.", last_word(months[place]))
        ]
    if kind == "weekday":
        place = rng.randrange(7)
        question = loosen(WEEKDAY.pick(ctx), rng).format(n=_ORDINALS[place])
        answer = f"Counting from Monday, the {_ORDINALS[place]} day is {days[place]}."
        return [Turn(wrap(question, rng), answer, last_word(days[place]))]
    if kind == "length":
        place = rng.randrange(12)
        question = loosen(LENGTH.pick(ctx), rng).format(d=months[place])
        if place == 1:
            return [Turn(wrap(question, rng), "February has 29 days in leap years, otherwise 28.", last_number(28))]
        return [Turn(wrap(question, rng), f"{months[place]} has {_LENGTHS[place]} days.", last_number(_LENGTHS[place]))]
    place = rng.randrange(7)
    ahead = rng.random() < 0.6
    name = days[(place + (1 if ahead else -1)) % 7]
    question = loosen((TOMORROW if ahead else YESTERDAY).pick(ctx), rng).format(d=days[place])
    answer = f"Tomorrow is {name}." if ahead else f"Yesterday was {name}."
    return [Turn(wrap(question, rng, share=0.1), answer, last_word(name))]


SKILLS: Final = (
    Skill("days and months", make, (AFTER, BEFORE, NUMBER, WEEKDAY, LENGTH, TOMORROW, YESTERDAY), weight=2.0),
)
