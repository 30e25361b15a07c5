"""What a command module is, and the few things that all of them share. Imports nothing heavy.

A command is one line in `fcd.cli.table` and one module with two functions:

    def add_arguments(parser: Parser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(args: argparse.Namespace) -> int:
        return run_async(_main(args))

`run` returns an exit code of `fcd.errors`; a failure is a raised `FcdError`, which `fcd.cli.main` prints on stderr
(message, then hint) and turns into its exit code. Nothing prints a traceback; `FCD_DEBUG=1` shows it.

A group (`fcd daemon start`, `fcd daemon stop`) adds subcommands and lets `run_subcommand` choose:

    def add_arguments(parser: Parser) -> None:
        group = Group(parser)
        start = group.add("start", "start the daemon and wait until it is ready", _start)
        start.add_argument("--port", type=int, metavar="N", help="where it listens (default: 8000)")
        group.add("stop", "stop the daemon", _stop)

    run = run_subcommand

Handlers may be plain functions or coroutine functions: `def _start(args) -> int`, `async def _stop(args) -> int`.
Where the table says `passthrough`, what follows a `--` on the command line is in `args.passthrough` (list of strings).

Import whatever is heavy (clients, Sanic, Textual, other packages) inside the handlers: the parsers are also built for
completions and man pages. Flags may be typed with `_` for `-`, as FastChat spells some of them. Help texts end without
a full stop and say the default where there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NoReturn, Protocol

from fcd.errors import EXIT_OK, UsageError

Handler = Callable[[argparse.Namespace], "int | Coroutine[Any, Any, int]"]


class CommandModule(Protocol):
    """A module of `fcd.cli` that `fcd.cli.table` names."""

    def add_arguments(self, parser: Parser) -> None: ...

    def run(self, args: argparse.Namespace) -> int: ...


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes raised as `UsageError` with the nearest flag, and `_` taken for `-` in flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"See `{self.prog} --help`.")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A wrong choice, with the one that was probably meant."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = nearest(str(value), choices)
        what = action.metavar if isinstance(action.metavar, str) else "/".join(action.option_strings) or action.dest
        raise UsageError(
            f"{self.prog}: '{value}' is not a {what} here."
            + (f" Did you mean '{near}'?" if near else f" There are: {', '.join(choices)}."),
            hint=f"See `{self.prog} --help`.",
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        known, extra = super().parse_known_args([self._normal(arg) for arg in args or ()], namespace)
        if extra:
            self._refuse(extra)
        return known, extra

    def _normal(self, arg: str) -> str:
        """`--repetition_penalty=1.1` as `--repetition-penalty=1.1`, where only the second exists."""
        flag, equals, value = arg.partition("=")
        dashed = flag.replace("_", "-")
        if flag.startswith("--") and flag not in self._option_string_actions and dashed in self._option_string_actions:
            return dashed + equals + value
        return arg

    def _refuse(self, extra: Sequence[str]) -> NoReturn:
        flag = next((word for word in extra if word.startswith("-")), "")
        if not flag:
            self.error(f"unexpected argument '{extra[0]}'")
        name = flag.partition("=")[0]
        near = nearest(name, self._option_string_actions)
        raise UsageError(
            f"{self.prog}: there is no flag '{name}'." + (f" Did you mean '{near}'?" if near else ""),
            hint=f"See `{self.prog} --help`.",
        )


class Group:
    """The subcommands of a command."""

    def __init__(self, parser: Parser) -> None:
        self._actions: argparse._SubParsersAction[Parser] = parser.add_subparsers(
            title="commands", metavar="COMMAND", dest="subcommand", parser_class=Parser
        )
        parser.set_defaults(handler=None, group=self, group_parser=parser)

    def add(self, name: str, summary: str, handler: Handler, *, description: str = "", epilog: str = "") -> Parser:
        """A subcommand; `summary` starts in lower case and stands in the list, `description` in its own help."""
        parser = self._actions.add_parser(
            name, help=summary, description=description or sentence(summary), epilog=epilog or None
        )
        parser.set_defaults(handler=handler)
        return parser

    @property
    def names(self) -> list[str]:
        return list(self._actions.choices)


def run_subcommand(args: argparse.Namespace) -> int:
    """Run the handler that the chosen subcommand set.

    Raises:
        UsageError: no subcommand was given.
    """
    if args.handler is None:
        parser: Parser = args.group_parser
        raise UsageError(
            f"{parser.prog} needs a command: {', '.join(args.group.names)}.", hint=f"See `{parser.prog} --help`."
        )
    result = args.handler(args)
    return run_async(result) if inspect.iscoroutine(result) else int(result)


def run_async(work: Coroutine[Any, Any, int]) -> int:
    """Run a command's coroutine; Ctrl-C cancels it and is raised as KeyboardInterrupt (exit code 130)."""
    return asyncio.run(work)


def add_json(parser: Parser) -> None:
    """The `--json` flag, as every command that prints data has it."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def nearest(word: str, words: Iterable[str]) -> str:
    """The word that was probably meant, or an empty string."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return near[0] if near else ""


def sentence(summary: str) -> str:
    return summary[:1].upper() + summary[1:] + "."


__all__ = [
    "EXIT_OK",
    "CommandModule",
    "Group",
    "Handler",
    "Parser",
    "add_json",
    "nearest",
    "run_async",
    "run_subcommand",
    "sentence",
]
