"""`fcd chat`: one answer for PROMPT or a pipe, else a conversation."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING

from fcd.cli import numbers
from fcd.cli.command import Parser, run_async
from fcd.cli.model_flags import add_model_flags, add_model_name, chosen_model, for_daemon, model_options, positive
from fcd.errors import UsageError

if TYPE_CHECKING:
    from fcd.chatlog import Chat
    from fcd.cli.chatting.displays import Style
    from fcd.client import Address
    from fcd.paths import Paths
    from fcd.settings import Settings

_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "seed": "seed",
}
"""Flag to the request's field; sent only when given."""

EXAMPLES = """examples:
  fcd chat                                  a conversation with the default model
  fcd chat "What can you do?"               one answer
  echo text | fcd chat "Summarise:"         the pipe is joined to the question
  fcd chat --model-path ./folder --load-8bit"""


def add_arguments(parser: Parser) -> None:
    parser.epilog = EXAMPLES
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="ask this, print the answer, and leave")
    add_model_name(parser)
    add_chat_flags(parser)


def add_chat_flags(parser: Parser) -> None:
    """What `chat` and `run` have in common."""
    talk = parser.add_argument_group("talking")
    talk.add_argument("--system", "--conv-system-msg", metavar="TEXT", help="the system message")
    talk.add_argument("--temperature", type=numbers.temperature, metavar="T", help="0 always takes the likeliest token")
    talk.add_argument(
        "--top-p", type=numbers.share, metavar="P", help="take tokens from this share of probability only"
    )
    talk.add_argument("--top-k", type=numbers.top_k, metavar="K", help="take one of the K likeliest tokens only")
    talk.add_argument(
        "--min-p", type=numbers.share, metavar="P", help="leave out tokens below this share of the likeliest"
    )
    talk.add_argument(
        "--repetition-penalty",
        type=numbers.repetition_penalty,
        metavar="X",
        help="above 1 makes repeating less likely",
    )
    talk.add_argument("--max-new-tokens", type=positive, metavar="N", help="end the answer after N tokens")
    talk.add_argument("--seed", type=numbers.seed, metavar="N", help="the same seed gives the same answer")
    talk.add_argument(
        "--style",
        choices=("simple", "rich", "programmatic"),
        help="how answers of a conversation look (default: rich; simple without colour)",
    )
    talk.add_argument("--multiline", action="store_true", help="Enter begins a new line, Esc Enter sends")
    talk.add_argument(
        "--no-history", action="store_true", help="ask each question on its own and keep nothing of it in files"
    )
    talk.add_argument("--continue", dest="go_on", action="store_true", help="go on with the last conversation")
    talk.add_argument("--json", action="store_true", help="with PROMPT: print the answer, tokens and times as JSON")
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    return chat(args, chosen_model(args), " ".join(args.prompt))


def chat(args: argparse.Namespace, model: str, prompt: str) -> int:
    """One answer, or a conversation, with `model` (empty: the default, or the one of the conversation gone on with)."""
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    paths = resolve_paths()
    settings = load_settings(paths.config_file)
    options = model_options(args)
    style: Style = args.style or settings.chat.style
    question = _question(prompt, style, settings)
    if args.json and not question:
        raise UsageError("fcd chat: --json is for one answer.", hint='Give a PROMPT: fcd chat --json "a question"')
    from fcd.cli.chatting.session import Session, open_daemon

    address = open_daemon(paths, settings)
    talk = _chat(args, settings, paths, address)
    name = for_daemon(model or (talk.model if args.go_on else "") or settings.chat.model)
    session = Session(address, paths, settings, options)
    if question:
        from fcd.cli.chatting.oneshot import ask_once

        keep_in = paths if args.go_on and not args.no_history else None
        return run_async(ask_once(session, name, talk, question, keep_in=keep_in, as_json=args.json))
    from fcd.cli.chatting.conversation import converse

    keep = not args.no_history
    return run_async(converse(session, name, talk, paths, style=style, multiline=args.multiline, keep=keep))


def _question(prompt: str, style: Style, settings: Settings) -> str:
    """The question for one answer; empty for a conversation."""
    if style == "programmatic" and not prompt:
        return ""
    if sys.stdin is not None and sys.stdin.isatty():
        return prompt if prompt.strip() else ""
    from fcd.cli.chatting.oneshot import join_prompt, read_pipe

    question = join_prompt(prompt, read_pipe(settings.daemon.max_body_bytes))
    if not question.strip():
        raise UsageError(
            "fcd chat: there is nothing to ask: no PROMPT, and nothing came through the pipe.",
            hint='Write `fcd chat "a question"`, or run it in a terminal for a conversation.',
        )
    return question


def _chat(args: argparse.Namespace, settings: Settings, paths: Paths, address: Address) -> Chat:
    from fcd import chatlog
    from fcd.cli.chatting.history import latest

    given = {field: getattr(args, flag) for flag, field in _PARAMETERS.items() if getattr(args, flag) is not None}
    if args.go_on:
        last = asyncio.run(latest(address, paths))
        if last is None:
            raise UsageError(
                "fcd chat: there is no conversation to go on with.", hint="`fcd chat` begins one; it is kept."
            )
        last.parameters |= given
        last.system = args.system if args.system is not None else last.system
        return last
    configured = {
        "temperature": settings.chat.temperature,
        "top_p": settings.chat.top_p,
        "max_tokens": settings.chat.max_tokens or None,
    }
    parameters = {name: value for name, value in configured.items() if value is not None} | given
    return chatlog.new_chat("", args.system if args.system is not None else settings.chat.system, parameters)
