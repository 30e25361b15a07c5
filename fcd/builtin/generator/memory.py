"""Remembering over several turns: a name, a number, a colour, a city, a pet that the user mentioned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fcd.builtin.generator import arithmetic, capitals, casing, dates, facts, opposites, refusal, smalltalk, sorting
from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import contains, says
from fcd.builtin.generator.tables import lists, pairs
from fcd.builtin.generator.wrap import loosen

PEOPLE: Final = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Irene",
    "Jack",
    "Karen",
    "Liam",
    "Maria",
    "Nick",
    "Olivia",
    "Peter",
    "Quinn",
    "Rosa",
    "Simon",
    "Tina",
    "Ursula",
    "Victor",
    "Wendy",
    "Xavier",
    "Yara",
    "Zach",
    "Ali",
    "Bella",
    "Carlos",
    "Diana",
    "Erik",
    "Fatima",
    "George",
    "Hanna",
    "Ivan",
    "Julia",
    "Kevin",
    "Laura",
    "Martin",
    "Nina",
    "Oscar",
    "Paula",
    "Ralph",
    "Sara",
    "Thomas",
    "Uma",
    "Vera",
    "Walter",
    "Yuki",
    "Zara",
    "Priya",
    "Chen",
    "Omar",
    "Lars",
    "Ingrid",
    "Pedro",
    "Mei",
    "Amir",
    "Tom",
    "Lucy",
]


@dataclass(frozen=True)
class Thing:
    """Something to remember: how it is told, what is replied, how it is asked, and where values come from."""

    tell: Phrasings
    noted: tuple[str, ...]
    ask: Phrasings
    answer: str
    unknown: str


THINGS: Final[dict[str, Thing]] = {
    "name": Thing(
        Phrasings(
            (
                "My name is {v}.", "I am {v}.", "I'm {v}.", "Hi, I am {v}.", "Hello, my name is {v}.", "Call me {v}.",
                "my name is {v}", "Hi, my name is {v}", "You can call me {v}.", "They call me {v}.",
                "This is {v}.", "Hello, I'm {v}!", "Remember that my name is {v}.", "Hey, {v} here.", "Hi, {v} here.",
                "Hello! {v} is my name.", "I am called {v}.", "{v} is my name.", "You may call me {v}.",
                "Let me introduce myself: I am {v}.", "I'm {v}, nice to meet you.", "Hello, this is {v}.",
                "people call me {v}", "My friends call me {v}.", "Note: my name is {v}.", "My name: {v}",
            ),
            ("Hello, I am {v}.", "Please call me {v}.", "Hi, I'm {v}.", "Remember my name: {v}"),
        ),
        ("Hello, {v}! What can I do for you?", "Nice to meet you, {v}."),
        Phrasings(
            (
                "What is my name?", "What's my name?", "Who am I?", "Do you remember my name?", "what was my name",
                "Do you know my name?", "Tell me my name.", "What is my name again?", "How am I called?",
                "Say my name.", "my name?", "Can you say my name?", "Do you know who I am?",
                "Which name did I give you?", "What did I tell you my name is?", "What name did I tell you?",
                "Do you remember what I am called?", "And my name?", "Can you repeat my name?", "What am I called?",
                "Recall my name.", "What name did I give?", "Do you still remember my name?",
                "Can you recall my name?", "what's my name again", "And who am I?", "What was my name?",
                "Please say my name.", "I forgot my name, what is it?", "Have you kept my name?",
            ),
            ("Can you tell me my name?", "What was my name again?", "Do you still know my name?",
             "Do you remember who I am?", "What did I say my name is?"),
        ),
        "Your name is {v}.",
        "You have not told me your name.",
    ),
    "number": Thing(
        Phrasings(
            (
                "My number is {v}.", "Remember the number {v}.", "Remember {v}.", "My favourite number is {v}.",
                "Keep the number {v} in mind.", "The number is {v}.", "Please remember the number {v}.",
                "My lucky number is {v}.", "Note the number {v}.", "My favorite number is {v}.",
                "remember this number: {v}", "The secret number is {v}.", "remember {v}", "Here is a number: {v}.",
                "Do not forget the number {v}.", "I will test your memory: {v}.", "Please note: {v}",
                "My number: {v}", "Remember, the number is {v}.", "Memorize {v}.", "Keep {v} in mind.",
                "Can you remember {v}?", "I tell you a number: {v}.", "Save the number {v}.",
            ),
            ("Please remember {v}.", "Remember my number: {v}", "Please keep the number {v} in mind.",
             "My number is {v}, remember it."),
        ),
        ("I will remember {v}.", "Noted: {v}."),
        Phrasings(
            (
                "What is my number?", "Which number did I tell you?", "What was the number?",
                "What number did I say?", "Do you remember the number?", "Which number should you remember?",
                "my number?",
                "What is my favourite number?", "What is the number?", "Tell me the number again.",
                "What is my lucky number?", "What was my number?", "What is my favorite number?",
                "Do you remember my number?", "What is the number that I gave you?", "Which number did I give you?",
                "What number did I mention?", "What was the number I mentioned?", "Say the number.", "Say my number.",
                "Which was my number?", "What number did I ask you to remember?",
                "What number should you keep in mind?", "What was the number I gave you?", "And my number?",
                "the number?", "What is the number I told you to remember?", "Can you repeat my number?",
                "Recall the number.", "Tell me my number.", "Do you know my number?", "Which number was mine?",
            ),
            ("What was the number that I told you?", "Can you tell me my number?", "Which number was it?",
             "Do you still know the number?", "What number did I tell you?"),
        ),
        "Your number is {v}.",
        "You have not told me a number.",
    ),
    "colour": Thing(
        Phrasings(
            (
                "My favourite colour is {v}.", "My favorite color is {v}.", "I like the colour {v}.",
                "I love {v} most of all colours.", "The colour I like best is {v}.", "my favorite color is {v}",
                "Remember that my favourite colour is {v}.", "Best colour: {v}, I think.",
                "I like {v} best of all colors.", "My best-loved colour is {v}.",
                "I really like {v}, it is my favourite colour.", "{v} is my favourite colour.",
                "{v} is the colour I like best.", "I like {v} more than other colors.",
                "Note that I like the colour {v}.", "The color I love is {v}.", "The colour that I like most is {v}.",
                "Favourite colour: {v}",
            ),
            ("The color I like best is {v}.", "My favourite color is {v}.", "I like the color {v} most."),
        ),
        ("Noted: {v} it is.", "I will remember that: {v}."),
        Phrasings(
            (
                "What is my favourite colour?", "What's my favorite color?", "Which colour do I like?",
                "Do you remember my favourite colour?", "What colour do I like best?", "my favourite colour?",
                "Which color do I like best?", "What was my favorite color?", "Do you know my favorite color?",
                "Tell me my favourite colour.", "And my favourite colour?", "Which colour did I say I like?",
                "What color do I like?", "Which is my favourite colour?", "Recall my favourite colour.",
                "What colour did I mention?", "What color do I like most?", "Say my favorite color.",
                "Which colour do I love?", "Do you recall my favourite colour?",
                "Do you still know my favorite color?",
            ),
            ("Can you tell me my favourite colour?", "What was my favourite colour?",
             "Do you remember which colour I like?", "What is my favorite color?"),
        ),
        "Your favourite colour is {v}.",
        "You have not told me your favourite colour.",
    ),
    "city": Thing(
        Phrasings(
            (
                "I live in {v}.", "I am from {v}.", "My city is {v}.", "I come from {v}.", "My home is in {v}.",
                "I'm from {v}.", "my home town, it is {v}", "I live in {v} now.", "Remember that I live in {v}.",
                "I moved to {v}.", "My house is in {v}.", "Home for me is {v}.", "I was born in {v}.",
                "I am living in {v} these days.", "Hi, I am from {v}.", "I come from the city of {v}.",
                "I reside in {v}.", "My city: {v}",
            ),
            ("I'm living in {v}.", "My home town is {v}.", "My home is {v}."),
        ),
        ("Noted: you live in {v}.", "{v}, I will remember that."),
        Phrasings(
            (
                "Where do I live?", "Which city do I live in?", "Where am I from?", "What is my city?",
                "Do you remember where I live?", "In which city do I live?", "Where is my home?", "my city?",
                "Do you know where I live?", "Where do I come from?", "Tell me where I live.",
                "Which city am I from?", "And where do I live?", "Which city did I mention?", "What city am I from?",
                "What is my home town?", "Recall where I live.", "Which city is my home?", "Where did I say I live?",
                "Do you still remember where I live?", "Do you recall my city?", "Say where I live.",
                "What city did I tell you?", "Do you know where I am from?", "where was I from",
            ),
            ("Can you tell me where I live?", "What city do I live in?", "Do you still know where I live?",
             "Do you remember where I am from?"),
        ),
        "You live in {v}.",
        "You have not told me where you live.",
    ),
    "pet": Thing(
        Phrasings(
            (
                "My dog is called {v}.", "My cat is called {v}.", "I have a dog called {v}.",
                "I have a cat named {v}.", "My pet is called {v}.", "My dog's name is {v}.", "My cat's name is {v}.",
                "The name of my pet is {v}.", "Remember that my pet is called {v}.", "I have a dog. Its name is {v}.",
                "I have a pet named {v}.", "{v} is my dog.", "{v} is my cat.", "My cat's called {v}.",
                "My parrot is called {v}.", "My rabbit is named {v}.", "We have a dog called {v}.",
                "I own a cat called {v}.", "My pet: {v}",
            ),
            ("I have a pet called {v}.", "My pet's name is {v}.", "I have a cat called {v}."),
        ),
        ("{v} is a nice name. I will remember it.",),
        Phrasings(
            (
                "What is my pet called?", "What is the name of my pet?", "What's my pet's name?",
                "Do you remember my pet's name?", "How is my pet called?", "my pet's name?",
                "What was my pet's name?",
                "Do you know my pet's name?", "Tell me the name of my pet.", "And my pet's name?",
                "What did I call my pet?", "What name has my pet?", "Recall my pet's name.",
                "What is the pet's name?", "Which name does my pet have?", "Say the name of my pet.",
                "Do you still know my pet's name?", "What was my pet called?", "What is my animal called?",
            ),
            ("Can you tell me my pet's name?", "What is my pet's name?", "What was the name of my pet?"),
        ),
        "Your pet is called {v}.",
        "You have not told me about a pet.",
    ),
}  # fmt: skip

_FILLERS: Final = (
    *arithmetic.SKILLS, *smalltalk.SKILLS, *facts.SKILLS, *capitals.SKILLS, *dates.SKILLS, *opposites.SKILLS,
        *casing.SKILLS, *sorting.SKILLS, *refusal.SKILLS,
)  # fmt: skip


def _value(kind: str, ctx: Context) -> str:
    rng = ctx.rng
    if kind in ("name", "pet"):
        return rng.choice(PEOPLE)
    if kind == "number":
        return str(rng.choice((rng.randint(0, 100), rng.randint(0, 9999))))
    if kind == "colour":
        return rng.choice(lists()["colours"])
    return rng.choice([city for _, city in pairs("capitals", "pairs", "=") if " " not in city])


def _ask(kind: str, ctx: Context) -> Turn:
    thing = THINGS[kind]
    question = loosen(thing.ask.pick(ctx), ctx.rng)
    if kind in ctx.known:
        value = ctx.known[kind]
        return Turn(question, thing.answer.format(v=value), says(value))
    return Turn(question, thing.unknown, contains(thing.unknown))


def _tell(kind: str, ctx: Context) -> Turn:
    thing = THINGS[kind]
    value = _value(kind, ctx)
    ctx.known[kind] = value
    question = loosen(thing.tell.pick(ctx), ctx.rng, share=0.15).format(v=value)
    return Turn(question, ctx.rng.choice(thing.noted).format(v=value), says(value))


def make(ctx: Context) -> list[Turn]:
    """Told, perhaps something else in between, then asked. Held-out dialogues always have something between."""
    rng = ctx.rng
    if not ctx.held_out and rng.random() < 0.25:
        return [_ask(rng.choice(tuple(THINGS)), ctx)]
    if not ctx.held_out and rng.random() < 0.2:
        return [_tell(rng.choice(tuple(THINGS)), ctx)]
    kinds = rng.sample(tuple(THINGS), rng.choice((1, 1, 1, 2)))
    turns = [_tell(kind, ctx) for kind in kinds]
    between = rng.choice((0, 1, 2, 3)) if not ctx.held_out else rng.choice((1, 2, 3))
    for _ in range(between):
        turns += rng.choice(_FILLERS).make(ctx)
    return [*turns, _ask(rng.choice(kinds), ctx)]


def make_unknown(ctx: Context) -> list[Turn]:
    """Asked for something that may never have been told."""
    return [_ask(ctx.rng.choice(tuple(THINGS)), ctx)]


_ALL: Final = tuple(p for thing in THINGS.values() for p in (thing.tell, thing.ask))
SKILLS: Final = (
    Skill("memory", make, _ALL, weight=3.5),
    Skill("not told yet", make_unknown, tuple(thing.ask for thing in THINGS.values()), weight=1.0),
)
