"""What the parsers say, as data: for completions and man pages."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from fcd.cli.command import Parser
from fcd.cli.main import build_parser
from fcd.cli.table import COMMANDS


class Flag(NamedTuple):
    names: tuple[str, ...]
    value: str
    """How its value is called; empty when it takes none."""
    summary: str
    choices: tuple[str, ...]


class Word(NamedTuple):
    """A positional argument."""

    name: str
    summary: str
    optional: bool
    many: bool


class Described(NamedTuple):
    """One command, or one subcommand."""

    name: str
    summary: str
    description: str
    epilog: str
    words: tuple[Word, ...]
    groups: tuple[tuple[str, tuple[Flag, ...]], ...]
    """Flags under their headings; the first heading is empty."""
    subcommands: tuple[Described, ...]

    @property
    def flags(self) -> list[Flag]:
        return [flag for _, flags in self.groups for flag in flags]

    @property
    def flag_names(self) -> list[str]:
        return [name for flag in self.flags for name in flag.names]


def describe_all() -> list[Described]:
    """Every command of the table."""
    return [describe(build_parser(entry)[0], entry.name, entry.summary) for entry in COMMANDS.values()]


def describe(parser: argparse.ArgumentParser, name: str, summary: str) -> Described:
    groups: list[tuple[str, tuple[Flag, ...]]] = []
    words: list[Word] = []
    subcommands: list[Described] = []
    for group in parser._action_groups:
        flags = [_flag(action) for action in group._group_actions if _is_shown_flag(action)]
        title = group.title if group.title not in ("options", "positional arguments", "commands") else ""
        if flags:
            groups.append((title or "", tuple(flags)))
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            subcommands = _subcommands(action)
        elif not action.option_strings and action.help != argparse.SUPPRESS:
            words.append(_word(action))
    return Described(
        name, summary, parser.description or "", parser.epilog or "", tuple(words), tuple(groups), tuple(subcommands)
    )


def _subcommands(action: argparse._SubParsersAction[Parser]) -> list[Described]:
    summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
    return [describe(parser, name, summaries.get(name, "")) for name, parser in action.choices.items()]


def _is_shown_flag(action: argparse.Action) -> bool:
    if isinstance(action, argparse._HelpAction):
        return False
    return bool(action.option_strings) and action.help != argparse.SUPPRESS


def _flag(action: argparse.Action) -> Flag:
    value = ""
    choices = tuple(str(choice) for choice in action.choices or ())
    if action.nargs != 0:
        shown = action.metavar or ("|".join(choices) if choices else action.dest.upper())
        value = shown if isinstance(shown, str) else " ".join(shown)
    return Flag(tuple(action.option_strings), value, (action.help or "").replace("%%", "%"), choices)


def _word(action: argparse.Action) -> Word:
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return Word(name, (action.help or "").replace("%%", "%"), action.nargs in ("?", "*"), action.nargs in ("*", "+"))
