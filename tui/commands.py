"""/commands of the prompt: read from the table of actions."""

from __future__ import annotations

import difflib

from msgspec import Struct

from fcd.settings import PROFILE_RANGES
from tui.actions import Action, commands

PARAMETERS: dict[str, tuple[type, str]] = {
    "temperature": (float, "0 to 2; 0 always takes the likeliest token"),
    "top_p": (float, "0 to 1; share of probability that is sampled from"),
    "top_k": (int, "likeliest tokens that are sampled from; 0 for all"),
    "min_p": (float, "0 to 1; least probability, relative to the likeliest"),
    "max_tokens": (int, "length limit of an answer"),
    "repetition_penalty": (float, "above 1 discourages repeating"),
    "presence_penalty": (float, "-2 to 2"),
    "frequency_penalty": (float, "-2 to 2"),
    "seed": (int, "same seed, same answer"),
    "stop": (str, "text that ends the answer"),
}
"""Sampling parameters that a person may set: type and a few words."""
_RANGES = {**PROFILE_RANGES, "seed": (-(2**63), 2**63 - 1)}


class Command(Struct, frozen=True):
    action: Action
    argument: str


def parse_command(text: str, screen: str = "chat") -> Command | str | None:
    """The command, a sentence that says why it is none, or None for an ordinary prompt.

    `//` begins a prompt that starts with a slash.
    """
    if not text.startswith("/") or text.startswith("//") or "\n" in text:
        return None
    word, _, argument = text[1:].partition(" ")
    for action in commands(screen):
        if action.command == word.lower():
            return Command(action, argument.strip())
    near = difflib.get_close_matches(word.lower(), [action.command for action in commands(screen)], n=1, cutoff=0.5)
    hint = f" Did you mean /{near[0]}?" if near else " /help lists them."
    return f"There is no command /{word}.{hint}"


def matching(text: str, screen: str = "chat") -> list[Action]:
    """Commands that what was typed so far may become."""
    if not text.startswith("/") or text.startswith("//") or " " in text or "\n" in text:
        return []
    return [action for action in commands(screen) if action.command.startswith(text[1:].lower())]


def parse_parameter(text: str) -> tuple[str, float | int | str | None]:
    """`NAME VALUE` to a parameter; without a value it is unset.

    Raises:
        ValueError: with a sentence for the person.
    """
    name, _, value = text.partition(" ")
    value = value.strip()
    if name not in PARAMETERS:
        near = difflib.get_close_matches(name, PARAMETERS, n=1)
        raise ValueError(
            f"There is no parameter '{name}'. " + (f"Did you mean {near[0]}?" if near else ", ".join(PARAMETERS) + ".")
        )
    if not value:
        return name, None
    kind, words = PARAMETERS[name]
    try:
        read = kind(value)
    except ValueError:
        raise ValueError(f"{name} must be {'a whole number' if kind is int else 'a number'}: {words}.") from None
    if name in _RANGES:
        least, most = _RANGES[name]
        if not least <= read <= most:  # "nan", which is between nothing, also ends here
            ends = f"{int(least)} to {int(most)}" if kind is int else f"{least:g} to {most:g}"
            raise ValueError(f"{name} must be within {ends}: {words}.")
    return name, read
