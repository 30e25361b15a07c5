"""Letters of a word: spelling it, reversing it, counting them, first and last."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn, letters
from fcd.builtin.generator.checks import ends_with, last_number, letter_is, spelled
from fcd.builtin.generator.wrap import loosen, wrap

SPELL: Final = Phrasings(
    (
            "Which letters make up {w}?", "What are the letters that make up {w}?", "the letters that make up {w}",
            "Name the letters which make up {w}.", "Which letters make up the word {w}?", "{w}: what makes it up?",
            "What letters is {w} made of?", "Which letters make {w}?", "What letters form {w}?",
            "Which letters form the word {w}?", "The word {w}, what letters is it made of?",
            "What are the letters that make the word {w}?", "Of what letters does {w} consist?",
            "What letters do I need for {w}?", "Which letters do I need to write {w}?", "I cannot spell {w}.",
            "Teach me how to spell {w}.", "How would one spell {w}?", "How should I spell {w}?",
            "How do they spell {w}?", "What would the spelling of {w} be?", "how 2 spell {w}",
            "What letters are in {w}?", "Which letters make the word {w}?", "The letters of {w}, please",
            "Of which letters is {w} made?", "Name the letters of {w}.", "Say the letters in {w}.",
            "Write out the letters of {w}.", "Write {w} as single letters.", "How is {w} written?",
            "What letters does {w} have?", "Which letters spell {w}?", "Give me the spelling of {w}.",
            "Show me how to spell {w}.", "I want to spell {w}. How?", "the letters in {w}", "spell: {w}",
            "Separate {w} into letters.", "Spell it: {w}", "Spell this word: {w}", "letter by letter: {w}",
            "What is {w} letter by letter?",
        "Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "How is {w} spelled?", "Can you spell {w}?",
        "spell {w}", "Spell out {w}.",
        "Please spell {w}.", "What are the letters of {w}?", "What is the spelling of {w}?",
        "Spell {w} letter by letter.", "Write {w} letter by letter.",
        "How do I spell {w}?", "List the letters of {w}.", "Give me the letters in {w}.", "Which letters are in {w}?",
        "Split {w} into letters.",
        "How does one spell {w}?", "Say {w} letter by letter.", "spelling of {w}", "I need the spelling of {w}.",
        "How do you write the word {w}?",
        "Break the word {w} into letters.",
    ),
    (
        "Could you spell {w} for me?", "How would you spell {w}?", "Tell me how to spell {w}.",
        "Spell the word {w} for me.", "How is the word {w} spelled?",
        "Spell out the word {w}.", "What letters make up {w}?",
    ),
)  # fmt: skip
REVERSE: Final = Phrasings(
    (
            "reverse: {w}", "Reverse this word: {w}", "backwards: {w}", "Write this word backwards: {w}",
            "What is {w} in reverse?", "How does {w} look in reverse?", "What would {w} be backwards?",
            "Turn the word {w} around.", "What is the reverse of {w}?", "The reverse of {w}", "Mirror {w}.",
            "{w} from back to front", "{w} in reverse order", "Reverse the string {w}.", "Type {w} backwards.",
        "Reverse {w}.", "Reverse the word {w}.", "Spell {w} backwards.", "Write {w} backwards.",
        "What is {w} backwards?", "What is {w} spelled backwards?",
        "How do you spell {w} backwards?", "reverse {w}", "{w} backwards", "{w} reversed", "Turn {w} around.",
        "Can you reverse {w}?", "What is {w} reversed?",
        "Flip the letters of {w}.", "Reverse the letters of {w}.", "Say {w} backwards.",
        "Write the word {w} in reverse.", "How is {w} written backwards?",
        "Give me {w} backwards.", "Please reverse {w}.", "Spell the word {w} in reverse.",
        "Read {w} from right to left.", "Put the letters of {w} in reverse order.",
    ),
    (
        "Could you reverse {w} for me?", "What does {w} look like backwards?", "Write the word {w} backwards.",
        "Reverse the letters in {w}.", "Tell me {w} backwards.",
        "Spell the word {w} backwards.", "Please write {w} in reverse.",
    ),
)  # fmt: skip
LENGTH: Final = Phrasings(
    (
            "How many letters has the word {w}?", "Say how many letters {w} has.",
            "Give the number of letters in {w}.", "Count how many letters {w} has.",
            "I want the number of letters in {w}.", "How many letters are in the word {w}?",
            "Find the length of {w}.", "count {w}'s letters",
            "How long is {w}?", "How many letters: {w}", "Count letters: {w}", "Count the characters in {w}.",
            "The number of letters of {w}", "In {w}, how many letters are there?", "What is the letter count of {w}?",
            "How many letters does it take to write {w}?", "How many letters long is {w}?",
        "How many letters are in {w}?", "How many letters does {w} have?", "Count the letters in {w}.",
        "How long is the word {w}?", "What is the length of {w}?",
        "How many letters are there in the word {w}?", "letters in {w}", "number of letters in {w}",
        "Count the letters of {w}", "How many letters has {w}?",
        "How many characters are in {w}?", "What is the number of letters in {w}?", "{w}: how many letters?",
        "How many characters does {w} have?",
        "Length of the word {w}", "Can you count the letters in {w}?",
    ),
    (
        "How many letters are there in {w}?", "How many letters does the word {w} have?",
        "Tell me how many letters {w} has.", "Count how many letters are in {w}.",
        "Please count the letters of {w}.", "What is the length of the word {w}?",
    ),
)  # fmt: skip
OCCURS: Final = Phrasings(
    (
            "Count how often the letter {c} is in {w}.", "Count how many times {c} is in {w}.",
            "See how often {c} appears in {w}.", "Tell me how often you find {c} in {w}.",
            "How often does {c} appear in the word {w}?", "How often can you find {c} in {w}?",
            "How many times does {c} occur in the word {w}?", "Count the times {c} occurs in {w}.",
            "How often does the letter {c} occur in {w}?", "How often do you find the letter {c} in {w}?",
            "Count all {c}'s in the word {w}.", "In the word {w}, how often is there a {c}?",
            "Find how often {c} occurs in {w}.", "Say how many {c}'s {w} has.",
            "Please count how many {c} there are in {w}.", "Count each {c} in {w}.", "occurrences of {c} in {w}",
            "How many times can you find {c} in {w}?", "How many times is the letter {c} in {w}?",
            "Does {w} have the letter {c}, and how often?", "How frequently does {c} appear in {w}?",
            "Count {c} in {w}.", "How many letter {c} does {w} have?", "How many {c}'s in {w}?",
            "how many {c}s in {w}", "How often do you see {c} in {w}?",
        "How many times does {c} appear in {w}?", "How many {c}'s are in {w}?", "How many {c} are in {w}?",
        "How often does the letter {c} appear in {w}?", "Count the {c}'s in {w}.",
        "How many times is {c} in {w}?", "How many letters {c} are in {w}?", "Count the letter {c} in {w}.",
        "How many {c}s does {w} have?", "How often is {c} in {w}?",
        "How many {c}s are there in {w}?", "How many times does the letter {c} occur in {w}?",
        "number of {c}'s in {w}", "How many {c}'s are there in the word {w}?",
        "In {w}, how many {c}'s are there?",
    ),
    (
        "How many times does the letter {c} appear in {w}?", "How many {c}'s does {w} have?",
        "How many {c}s are in the word {w}?", "Count how often {c} appears in {w}.",
        "How often does {c} occur in {w}?",
    ),
)  # fmt: skip
FIRST: Final = Phrasings(
    (
            "What's the first letter of {w}?", "What's the first letter of the word {w}?", "the first letter in {w}",
            "{w}: first letter?", "What is the first letter in the word {w}?", "With what letter does {w} begin?",
            "The word {w} starts with what?", "The starting letter of {w}", "Find the first letter of {w}.",
            "What is the initial letter of {w}?",
        "What is the first letter of {w}?", "First letter of {w}", "Which letter does {w} start with?",
        "What letter does {w} begin with?", "{w} starts with which letter?",
        "Give me the first letter of {w}.", "With which letter does {w} start?", "What does {w} start with?",
    ),
    ("What's the first letter in {w}?", "Which letter does {w} begin with?", "Tell me the first letter of {w}."),
)  # fmt: skip
LAST: Final = Phrasings(
    (
            "What's the last letter of {w}?", "What's the last letter of the word {w}?", "the last letter in {w}",
            "{w}: last letter?", "What is the last letter in the word {w}?", "With what letter does {w} end?",
            "The word {w} ends with what?", "The final letter of {w}", "Find the last letter of {w}.",
            "What is the final letter of {w}?",
        "What is the last letter of {w}?", "Last letter of {w}", "Which letter does {w} end with?",
        "What letter does {w} end in?", "{w} ends with which letter?",
        "Give me the last letter of {w}.", "With which letter does {w} end?", "What does {w} end with?",
    ),
    ("What's the last letter in {w}?", "Which letter does {w} end in?", "Tell me the last letter of {w}."),
)  # fmt: skip


def quote(word: str, ctx: Context) -> str:
    """The word as people write it in a question: bare, quoted, sometimes with a capital or in capitals."""
    draw = ctx.rng.random()
    if draw < 0.5:
        return word
    if draw < 0.65:
        return f'"{word}"'
    if draw < 0.8:
        return f"'{word}'"
    if draw < 0.85:
        return f"`{word}`"
    return word.capitalize() if draw < 0.95 else word.upper()


def _ask(phrasings: Phrasings, word: str, ctx: Context, letter: str = "") -> str:
    template = loosen(phrasings.pick(ctx), ctx.rng)
    shown = letter if ctx.rng.random() < 0.7 else f"'{letter}'"
    return wrap(template.format(w=quote(word, ctx), c=shown), ctx.rng, share=0.2)


def make_spell(ctx: Context) -> list[Turn]:
    """A word letter by letter."""
    word = ctx.word(2, 11, "spell")
    return [Turn(_ask(SPELL, word, ctx), letters("-".join(word)), spelled(word))]


def make_reverse(ctx: Context) -> list[Turn]:
    """A word of up to nine letters backwards; the letters come first, which makes it learnable."""
    word = ctx.word(2, 9, "reverse")
    back = word[::-1]
    return [Turn(_ask(REVERSE, word, ctx), letters(f"{'-'.join(word)} backwards is {back}"), ends_with(back))]


def make_length(ctx: Context) -> list[Turn]:
    """How many letters a word has, by spelling it with running numbers."""
    word = ctx.word(2, 10, "length")
    counted = letters(" ".join(f"{letter}{place}" for place, letter in enumerate(word, 1)))
    answer = f"{counted}: {len(word)} letters"
    return [Turn(_ask(LENGTH, word, ctx), answer, last_number(len(word)))]


def make_occurs(ctx: Context) -> list[Turn]:
    """How often a letter is in a word; the answer begins with the letter, so that what is looked for stands near."""
    word = ctx.word(3, 10, "occurs")
    letter = ctx.rng.choice(word) if ctx.rng.random() < 0.85 else ctx.rng.choice("aeiorstln")
    seen = 0
    marks = []
    for character in word:
        seen += character == letter
        marks.append(f"{character}{seen}" if character == letter else character)
    answer = f"{letters(letter)} in {letters(' '.join(marks))}: {letter} appears {seen} time{'' if seen == 1 else 's'}"
    return [Turn(_ask(OCCURS, word, ctx, letter), answer, last_number(seen))]


def make_ends(ctx: Context) -> list[Turn]:
    """The first or the last letter."""
    word = ctx.word(2, 10, "ends")
    first = ctx.rng.random() < 0.5
    letter = word[0] if first else word[-1]
    where, verb = ("first", "starts") if first else ("last", "ends")
    spelled_out = letters("-".join(word))
    answer = f"{spelled_out} {verb} with {letters(letter)}"
    return [Turn(_ask(FIRST if first else LAST, word, ctx), answer, letter_is(letter, where))]


SKILLS: Final = (
    Skill("spelling", make_spell, (SPELL,), weight=4.0, has_values=True),
    Skill("reversing a word", make_reverse, (REVERSE,), weight=3.0, has_values=True),
    Skill("counting letters", make_length, (LENGTH,), weight=1.5, has_values=True),
    Skill("letter in a word", make_occurs, (OCCURS,), weight=3.0, has_values=True),
    Skill("first and last letter", make_ends, (FIRST, LAST), weight=1.5, has_values=True),
)
