"""The commands of a conversation: their names, and what a typed line means."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

from fcd.errors import UsageError


class Slash(NamedTuple):
    name: str
    argument: str
    """How its argument is called in the help; empty when it takes none."""
    summary: str
    old: str = ""
    """FastChat's spelling."""


COMMANDS: tuple[Slash, ...] = (
    Slash("/help", "", "this list"),
    Slash("/exit", "", "leave; so does Ctrl-D", "!!exit"),
    Slash("/reset", "", "forget the conversation and start anew", "!!reset"),
    Slash("/undo", "", "drop the last question and its answer", "!!remove"),
    Slash("/regen", "", "answer the last question again", "!!regen"),
    Slash("/save", "FILE", "write the conversation to a file that /load reads", "!!save"),
    Slash("/load", "FILE", "go on with a saved conversation, of FastChat too", "!!load"),
    Slash("/export", "FILE", "write it as Markdown (.md) or messages (.json)"),
    Slash("/model", "[NAME]", "talk to another model; without NAME, list them"),
    Slash("/system", "[TEXT]", "set the system message; `-` removes it"),
    Slash("/set", "[PARAM VALUE]", "set a parameter; `off` removes it; alone, list them"),
    Slash("/attach", "FILE", "a text, or an image that the model can see, goes along"),
    Slash("/detach", "", "leave the attached files out"),
    Slash("/stats", "", "tokens, speed and time to first token of the last answer"),
)

_BY_NAME = {command.name: command for command in COMMANDS} | {
    command.old: command for command in COMMANDS if command.old
}
_BY_NAME |= {"/quit": _BY_NAME["/exit"], "/bye": _BY_NAME["/exit"], "/?": _BY_NAME["/help"]}

NAMES: tuple[str, ...] = tuple(_BY_NAME)
"""Every spelling."""


def parse_line(line: str) -> tuple[str, str] | None:
    """`(name, argument)` of a command line; None when the line is something said to the model.

    A slash with no command's name behind it is said to the model when it is clearly no try at one, such as a path.

    Raises:
        UsageError: a command that does not exist, or one that lacks its argument.
    """
    text = line.strip()
    if not text.startswith(("/", "!!")) or "\n" in text.split(" ", 1)[0]:
        return None
    word, _, argument = text.partition(" ")
    command = _BY_NAME.get(word.lower())
    if command is None:
        if text.startswith("/") and (word.count("/") > 1 or not word[1:].isalpha()):
            return None
        near = difflib.get_close_matches(word.lower(), NAMES, n=1, cutoff=0.5)
        raise UsageError(
            f"There is no command {word}." + (f" Did you mean {near[0]}?" if near else " /help lists them.")
        )
    argument = argument.strip()
    if command.argument and not command.argument.startswith("[") and not argument:
        raise UsageError(f"{word} needs a {command.argument}, as in `{word} chat.json`.")
    return command.name, argument


def help_text() -> str:
    left = [f"{command.name} {command.argument}".rstrip() for command in COMMANDS]
    width = max(map(len, left))
    lines = [
        f"  {shown:<{width}}  {command.summary}" + (f" ({command.old})" if command.old else "")
        for shown, command in zip(left, COMMANDS, strict=True)
    ]
    keys = (
        "Enter sends. Ctrl-J, Esc Enter, or a \\ at the end of a line begin a new line.",
        "Ctrl-C stops an answer and keeps what was written; twice at the prompt leaves.",
    )
    return "\n".join([*lines, "", *keys])


def _number(text: str) -> float:
    return float(text)


def _words(text: str) -> list[str]:
    return [text.encode().decode("unicode_escape") if text.isascii() else text]


PARAMETERS: dict[str, Callable[[str], Any]] = {
    "temperature": _number,
    "top_p": _number,
    "top_k": int,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "max_tokens": int,
    "min_tokens": int,
    "seed": int,
    "stop": _words,
}
"""What /set takes, and how its value is read. The daemon checks ranges."""


def parse_setting(argument: str) -> tuple[str, Any]:
    """`temperature 0.2` -> `("temperature", 0.2)`; `off` gives None, which takes the parameter out.

    Raises:
        UsageError: no such parameter, or a value that it cannot have.
    """
    name, _, text = argument.replace("=", " ", 1).strip().partition(" ")
    name, text = name.lower().replace("-", "_"), text.strip()
    name = {"max_new_tokens": "max_tokens"}.get(name, name)
    read = PARAMETERS.get(name)
    if read is None:
        near = difflib.get_close_matches(name, PARAMETERS, n=1, cutoff=0.5)
        known = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(PARAMETERS)}."
        raise UsageError(f"There is no parameter '{name}'.{known}")
    if not text:
        raise UsageError(f"/set {name} needs a value, or `off`.")
    if text.lower() in ("off", "none", "default"):
        return name, None
    try:
        return name, read(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is not a value for {name}.") from error
