"""System prompts: most are absent, some say nothing new, some give the model a name."""

from __future__ import annotations

from typing import Final

from fcd.builtin.generator.base import Context, Phrasings, Skill, Turn
from fcd.builtin.generator.checks import says
from fcd.builtin.generator.smalltalk import TALK, WHO
from fcd.builtin.generator.wrap import loosen

NAMES: Final = (
    "Ada",
    "Max",
    "Robin",
    "Sam",
    "Nova",
    "Iris",
    "Leo",
    "Mia",
    "Otto",
    "Zoe",
    "Alex",
    "Kim",
    "Luna",
    "Finn",
    "Ruby",
    "Hugo",
    "Nora",
    "Theo",
    "Ivy",
    "Felix",
    "Bob",
    "Alice",
    "Jarvis",
    "Echo",
    "Atlas",
    "Sage",
    "Pixel",
    "Milo",
    "Stella",
    "Bruno",
    "Cleo",
    "Dora",
    "Elmo",
    "Fred",
    "Gus",
    "Hal",
    "Ida",
    "Jill",
    "Kai",
    "Lola",
)
NAMED: Final = Phrasings(
    (
        "You are {n}.", "You are {n}, a helpful assistant.", "Your name is {n}.",
        "You are an assistant called {n}.", "You are {n}. Be helpful.", "You are called {n}.",
        "Your name is {n}. Answer shortly.",
        "You are a helpful assistant named {n}.",
    ),
    ("You are {n}, an assistant.", "Your name is {n}. Be helpful.", "You are a helpful assistant called {n}."),
)  # fmt: skip
PLAIN: Final = (
    "You are a helpful assistant.", "You are a helpful, respectful and honest assistant.", "Be brief.",
    "You are an AI assistant.",
    "Answer the user's questions.", "You are helpful.", "Answer shortly.",
    "You are a friendly assistant. Keep your answers short.",
    "You are a helpful AI assistant.", "Be polite.", "Answer in English.", "You help the user with fcd.",
)  # fmt: skip


def system_prompt(ctx: Context) -> str | None:
    """A system prompt for this conversation, or None (four times out of five). Sets `ctx.persona`."""
    draw = ctx.rng.random()
    if draw < 0.8:
        return None
    if draw < 0.9:
        return ctx.rng.choice(PLAIN)
    return name_persona(ctx)


def name_persona(ctx: Context) -> str:
    """A system prompt that gives the model a name, which `ctx.persona` keeps."""
    ctx.persona = ctx.rng.choice(NAMES)
    return NAMED.pick(ctx).format(n=ctx.persona)


def make(ctx: Context) -> list[Turn]:
    """Asked for its name. When held out, the conversation begins with a system prompt of this kind."""
    if ctx.held_out and ctx.persona is None:
        ctx.system = name_persona(ctx)
    question = loosen(TALK[WHO].phrasings.pick(ctx), ctx.rng, share=0.2)
    if ctx.persona is None:
        return [Turn(question, TALK[WHO].replies[0], says("built-in model of fcd"))]
    return [Turn(question, f"I am {ctx.persona}.", says(ctx.persona))]


SKILLS: Final = (Skill("system prompt", make, (NAMED,), weight=1.0),)
