"""`python3 -m fcd.cli --model-path M` is `fcd chat --model-path M`, as FastChat's users type it."""

from __future__ import annotations

import sys

from fcd.cli.main import main
from fcd.cli.table import COMMANDS


def chat_words(words: list[str]) -> list[str]:
    """The command line to run: `chat` is put in front unless a command is there already."""
    if words and (words[0] in COMMANDS or words[0] in ("help", "--version", "-V")):
        return words
    return ["chat", *words]


if __name__ == "__main__":
    sys.exit(main(chat_words(sys.argv[1:])))
