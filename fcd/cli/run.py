"""`fcd run MODEL [PROMPT...]`: `fcd chat` with the model named first, as Ollama's users type it."""

from __future__ import annotations

import argparse

from fcd.cli.chat import add_chat_flags, chat
from fcd.cli.command import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a name that `fcd ls` lists, a folder, or a repo")
    # The default keeps argparse from calling it required when MODEL is missing.
    parser.add_argument("prompt", nargs="*", default=[], metavar="PROMPT", help="ask this, print the answer, and leave")
    add_chat_flags(parser)


def run(args: argparse.Namespace) -> int:
    return chat(args, args.model, " ".join(args.prompt))
