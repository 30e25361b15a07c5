"""The commands that the pages show exist, with the flags that they show."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fcd.cli.main import build_parser
from fcd.cli.table import COMMANDS
from fcd.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
_SHELL = re.compile(r"\s(\||>|<|&&|&|;)(\s|$)")
_COMMAND = re.compile(r"(?:\w*\$\s+)?(?:[A-Z_]+=\S+ )*fcd ([a-z].*)")


def commands_of(page: Path) -> list[str]:
    """Those of its blocks of code, each with the lines that continue it; what two spaces set apart explains it."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text(encoding="utf-8"))
    found, fenced = [], False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if (fenced or line.startswith("    ")) and (said := _COMMAND.match(line.strip())):
            plain = re.sub(r"\s#.*|\s{2,}.*|\.\.\.|[\[\]]", "", said[1])
            found.append(_SHELL.split(plain)[0].strip())
    return found


def test_there_are_commands_to_check() -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    wrong = []
    for command in commands_of(page):
        name, *words = shlex.split(command)
        if name not in COMMANDS:
            wrong.append(f"{command}: no such command")
            continue
        words = words[: words.index("--")] if COMMANDS[name].passthrough and "--" in words else words
        try:
            build_parser(COMMANDS[name])[0].parse_args(words)
        except (UsageError, SystemExit) as error:
            wrong.append(f"{command}: {error}")
    assert wrong == []
