"""Short lists and small tables in Markdown: from knowledge, or from what the user gives."""

from __future__ import annotations

import re
from typing import Final

from fcd.builtin.generator.base import Check, Context, Phrasings, Skill, Turn
from fcd.builtin.generator.sorting import join
from fcd.builtin.generator.tables import lists
from fcd.builtin.generator.wrap import loosen, wrap

NAME_SOME: Final = Phrasings(
    (
        "List {n} {k}.", "Name {n} {k}.", "Give me {n} {k}.", "Give me a list of {n} {k}.", "Make a list of {n} {k}.",
        "Write a list of {n} {k}.", "A list of {n} {k}", "Tell me {n} {k}.",
        "Show me {n} {k}.", "What are {n} {k}?", "Can you name {n} {k}?", "Can you list {n} {k}?", "{n} {k}",
        "I need a list of {n} {k}.", "Write down {n} {k}.", "Give {n} examples of {k}.",
        "name me {n} {k}", "Please list {n} {k}.", "Bullet list of {n} {k}", "Give me the names of {n} {k}.",
    ),
    ("Could you name {n} {k}?", "Could you list {n} {k}?", "Please give me {n} {k}.", "Make me a list of {n} {k}.",
     "I would like a list of {n} {k}.", "Please name {n} {k}."),
)  # fmt: skip
BULLETS: Final = Phrasings(
    (
            "List these: {t}", "Make this a list: {t}", "Bulleted list: {t}", "Give me these as a list: {t}",
            "Can you turn this into a list: {t}", "Unordered list: {t}", "Markdown list: {t}",
            "One per line with dashes: {t}", "Show these as a list: {t}",
        "Make a list of these: {t}", "Turn this into a bullet list: {t}", "Make a bulleted list: {t}",
        "Write these as a list: {t}", "Bullet points: {t}", "List these as bullet points: {t}",
        "Make a Markdown list of {t}.", "Turn {t} into a list.", "As a bullet list: {t}",
        "Put these in a bullet list: {t}", "Format as a list: {t}", "Convert to a bullet list: {t}",
        "Make a list out of {t}.",
        "Write {t} as bullet points.", "Make bullet points of {t}.", "Write a Markdown list with {t}.",
    ),
    ("Please make a bullet list of {t}.", "Turn these into bullet points: {t}", "Can you make a list of these: {t}",
     "Write this as a bullet list: {t}", "Put these into a list: {t}"),
)  # fmt: skip
NUMBERED: Final = Phrasings(
    (
            "Number the following: {t}", "Number these items: {t}", "Can you make a numbered list of these: {t}",
            "Write a numbered list: {t}", "Give numbers to these: {t}", "List these with numbers: {t}",
            "Ordered list: {t}", "Make an ordered list: {t}", "Put numbers before these: {t}",
        "Make a numbered list of these: {t}", "Turn this into a numbered list: {t}", "Numbered list: {t}",
        "Make a numbered list: {t}", "Number these: {t}", "As a numbered list: {t}",
        "Write these as a numbered list: {t}",
        "Turn {t} into a numbered list.", "Put these in a numbered list: {t}", "Format as a numbered list: {t}",
        "Make a numbered list out of {t}.", "Write {t} as a numbered list.",
        "Number the items {t}.",
    ),
    ("Please make a numbered list of {t}.", "Turn these into a numbered list: {t}", "Can you number these: {t}",
     "Write this as a numbered list: {t}"),
)  # fmt: skip
SQUARES: Final = Phrasings(
    (
        "Make a table of the numbers 1 to {n} and their {p}.", "Table of {p} up to {n}",
        "A table with the numbers 1 to {n} and their {p}", "Show a table of {p} from 1 to {n}.",
        "Write a table of the first {n} {p}.",
        "Give me a table of {p} up to {n}.", "Make a table of {p} from 1 to {n}.", "Table: numbers 1 to {n} with {p}",
        "Make a Markdown table of the {p} of 1 to {n}.", "Write a Markdown table with the first {n} {p}.",
        "Table of the first {n} {p}",
    ),
    ("Please make a table of {p} up to {n}.", "Make a table with the {p} of 1 to {n}.",
     "Write a table of {p} from 1 to {n}.", "Show me a table of the first {n} {p}."),
)  # fmt: skip
PAIRS: Final = Phrasings(
    (
        "Make a table of {t}.", "Make a table: {t}", "Turn this into a table: {t}", "Write a Markdown table: {t}",
        "Put this in a table: {t}", "Table: {t}", "Make a table with two columns: {t}",
        "Convert to a table: {t}", "Format as a table: {t}", "Show as a table: {t}", "Write this as a table: {t}",
        "As a Markdown table: {t}", "Make a Markdown table of {t}.", "Create a table from {t}.",
    ),
    ("Please make a table of {t}.", "Can you put this in a table: {t}", "Please turn this into a table: {t}",
     "Write this as a Markdown table: {t}", "Make a table from this: {t}"),
)  # fmt: skip
_WORDS: Final = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}
_POWERS: Final = {"squares": ("Square", 2), "doubles": ("Double", 0), "cubes": ("Cube", 3)}


def bullets(items: list[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {item}" for item in items)


def table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]
    return "\n".join(lines)


def is_list(items: list[str], numbered: bool) -> Check:
    """The reply is a Markdown list of exactly these items."""
    mark = r"\d+\. " if numbered else r"[-*] "

    def check(reply: str) -> bool:
        found = [re.sub(f"^{mark}", "", line) for line in reply.strip().splitlines() if re.match(mark, line)]
        return found == items and len(reply.strip().splitlines()) == len(items)

    return check


def is_list_from(allowed: tuple[str, ...], count: int) -> Check:
    """The reply is a Markdown list of `count` different items, all of them allowed."""

    def check(reply: str) -> bool:
        lines = reply.strip().splitlines()
        found = [re.sub(r"^([-*]|\d+\.) ", "", line).strip() for line in lines]
        marked = all(re.match(r"([-*]|\d+\.) ", line) for line in lines)
        return marked and len(found) == len(set(found)) == count and set(found) <= set(allowed)

    return check


def is_table(rows: list[tuple[str, str]]) -> Check:
    """The reply is a Markdown table: a head, a rule, and exactly these rows."""

    def check(reply: str) -> bool:
        lines = [line.strip() for line in reply.strip().splitlines()]
        if len(lines) != len(rows) + 2 or not re.fullmatch(r"\|[-| :]+\|", lines[1]):
            return False
        cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]
        return cells == rows

    return check


def make_list(ctx: Context) -> list[Turn]:
    """A list of things of a kind, or the user's own things as a list."""
    rng = ctx.rng
    if rng.random() < 0.5:
        kind, things = rng.choice(list(lists().items()))
        count = rng.randint(2, min(len(things), 8))
        if kind in ("continents", "seasons", "planets"):
            count = rng.choice((count, len(things)))
        shown = str(count) if rng.random() < 0.4 or count not in _WORDS else _WORDS[count]
        name = kind if kind != "colours" or rng.random() < 0.5 else "colors"
        name = (
            {"days": "days of the week", "months": "months of the year"}.get(kind, name) if rng.random() < 0.5 else name
        )
        name = {"instruments": "musical instruments"}.get(kind, name) if rng.random() < 0.5 else name
        question = wrap(loosen(NAME_SOME.pick(ctx), rng).format(n=shown, k=name), rng)
        return [Turn(question, bullets(list(things[:count])), is_list_from(things, count))]
    words: list[str] = []
    while len(words) < rng.choice((2, 3, 3, 4, 5)):
        word = ctx.word(3, 8)
        if word not in words:
            words.append(word)
    numbered = rng.random() < 0.4
    question = loosen((NUMBERED if numbered else BULLETS).pick(ctx), rng).format(t=join(words, ctx))
    answer = "\n".join(f"{n}. {word}" for n, word in enumerate(words, 1)) if numbered else bullets(words)
    return [Turn(question, answer, is_list(words, numbered))]


def make_table(ctx: Context) -> list[Turn]:
    """Squares, doubles and cubes, or the user's own pairs."""
    rng = ctx.rng
    if rng.random() < 0.4:
        kind = rng.choice(tuple(_POWERS))
        title, power = _POWERS[kind]
        count = rng.randint(2, 5 if kind == "cubes" else 10)
        rows = [(str(n), str(n**power if power else 2 * n)) for n in range(1, count + 1)]
        question = wrap(loosen(SQUARES.pick(ctx), rng).format(n=count, p=kind), rng)
        return [Turn(question, table(("Number", title), rows), is_table(rows))]
    names: list[str] = []
    while len(names) < rng.choice((2, 3, 3, 4)):
        word = ctx.word(3, 8)
        if word not in names:
            names.append(word)
    rows = [(name, str(rng.randint(1, 99))) for name in names]
    form = rng.choice(("{} {}", "{}: {}", "{} = {}", "{} {}"))
    text = ", ".join(form.format(*row) for row in rows)
    question = loosen(PAIRS.pick(ctx), rng).format(t=text)
    return [Turn(question, table(("Name", "Value"), rows), is_table(rows))]


SKILLS: Final = (
    Skill("Markdown lists", make_list, (NAME_SOME, BULLETS, NUMBERED), weight=2.5),
    Skill("Markdown tables", make_table, (SQUARES, PAIRS), weight=2.0),
)
