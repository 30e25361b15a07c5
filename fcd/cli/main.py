"""The front door: finds the command, runs it, and turns failures into a line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from fcd import __version__
from fcd.cli.table import COMMANDS, SECTIONS, Entry
from fcd.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, FcdError, UsageError

if TYPE_CHECKING:
    from fcd.cli.command import CommandModule, Parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    _fill_closed_streams()
    try:
        _refuse_undecodable(words)
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_FAILED
    except SystemExit as stop:  # argparse's --help
        return stop.code if isinstance(stop.code, int) else EXIT_OK
    except FcdError as error:
        return _report(error)
    except Exception as error:
        return _report_unexpected(error)


def build_parser(entry: Entry) -> tuple[Parser, CommandModule]:
    """The parser of one command, and its module."""
    from fcd.cli.command import Parser, sentence

    module = cast("CommandModule", import_module(entry.module))
    parser = Parser(prog=f"fcd {entry.name}", description=sentence(entry.summary))
    module.add_arguments(parser)
    return parser, module


def help_text() -> str:
    """What `fcd --help` prints."""
    lines = ["usage: fcd COMMAND [ARGUMENTS]", "", "Local language models in the terminal.", ""]
    width = max(len(_left(entry)) for entry in COMMANDS.values())
    for title, entries in SECTIONS:
        lines.append(f"{title}:")
        lines += [f"  {_left(entry):<{width}}  {entry.summary}" for entry in entries]
        lines.append("")
    lines.append("`fcd COMMAND --help` says more. `fcd chat` starts talking; the first model is built in.")
    return "\n".join(lines)


def _left(entry: Entry) -> str:
    return f"{entry.name} {entry.usage}".rstrip()


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h") or words == ["help"]:
        print(help_text())
        return EXIT_OK
    if words[0] == "help":
        words = [*words[1:], "--help"]
    if words[0] in ("--version", "-V"):
        print(f"fcd {__version__}")
        return EXIT_OK
    entry = COMMANDS.get(words[0])
    if entry is None:
        raise _unknown(words[0])
    return _run(entry, words[1:])


def _run(entry: Entry, words: list[str]) -> int:
    rest: list[str] = []
    if entry.passthrough and "--" in words:
        cut = words.index("--")
        words, rest = words[:cut], words[cut + 1 :]
    parser, module = build_parser(entry)
    args = parser.parse_args(words)
    args.passthrough = rest
    return module.run(args)


def _unknown(word: str) -> UsageError:
    from fcd.cli.command import nearest

    if word.startswith("-"):
        near = nearest(word, ("--help", "--version"))
        message = f"fcd: there is no flag '{word}' before a command."
    else:
        near = nearest(word, COMMANDS)
        message = f"fcd: there is no command '{word}'."
    return UsageError(message + (f" Did you mean '{near}'?" if near else ""), hint="`fcd --help` lists the commands.")


def _debugging() -> bool:
    return os.environ.get("FCD_DEBUG", "") not in ("", "0")


def _report(error: FcdError) -> int:
    if _debugging():
        _print_traceback(error)
    print(error.message if error.message.startswith("fcd") else f"fcd: {error.message}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)
    return error.exit_code


def _report_unexpected(error: Exception) -> int:
    if _debugging():
        _print_traceback(error)
        return EXIT_FAILED
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        print(f"fcd: {error.strerror}{where}", file=sys.stderr)
    else:
        print(f"fcd: {type(error).__name__}: {error}", file=sys.stderr)
        print("This is a fault in fcd. FCD_DEBUG=1 shows where it happened.", file=sys.stderr)
    return EXIT_FAILED


def _print_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _refuse_undecodable(words: Sequence[str]) -> None:
    """Bytes that are no text in the locale's encoding can be neither sent nor printed."""
    for position, word in enumerate(words, start=1):
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"fcd: argument {position} is not {sys.getfilesystemencoding().upper()} text"
                f" (character {error.start + 1}).",
                hint="Type it again, or send it through a pipe: `iconv -t utf-8 FILE | fcd chat`.",
            ) from error


def _fill_closed_streams() -> None:
    """Open nothing where the caller closed stdout or stderr: no file or socket of ours may get their descriptors."""
    if sys.stdout is not None and sys.stderr is not None:
        return
    spare = os.open(os.devnull, os.O_RDWR)
    while spare <= 2:
        spare = os.open(os.devnull, os.O_RDWR)
    os.close(spare)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives as long as the process


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail on the closed pipe."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
