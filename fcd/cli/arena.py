"""`fcd arena`: blind battles in a plain terminal, the board, votes, files, judges."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fcd.cli import numbers
from fcd.cli.command import Group, Handler, Parser, add_json, run_subcommand
from fcd.cli.model_flags import positive

run = run_subcommand

_FORMATS = ("preferences", "sft", "fastchat", "battles", "csv", "json")


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    _battle(group)
    _board(group)
    _votes(group)
    _judge(group)
    _files(group)


def _battle(group: Group) -> None:
    parser = group.add(
        "battle",
        "ask two hidden models the same, vote, and see who they were",
        _lazily("fcd.cli.arena_battle", "battle"),
        epilog="One key votes: a, b, t (tie), x (both bad), s (skip). u takes a vote back until names are shown.",
    )
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="the first question")
    parser.add_argument("--models", default="", metavar="A,B", help="the models to draw from; with --named, the two")
    parser.add_argument("--named", action="store_true", help="show who is who from the beginning")
    parser.add_argument("--pool", default="", metavar="NAME", help="draw from this pool of arena.pools")
    parser.add_argument(
        "--pairing", choices=("uniform", "weighted", "fewest_votes", "most_informative"), default=None,
        help="how the two are drawn (default: arena.pairing)",
    )  # fmt: skip
    parser.add_argument("--system", default="", metavar="TEXT", help="the system message")
    parser.add_argument("--temperature", type=numbers.temperature, default=0.7, metavar="T", help="default: 0.7")
    parser.add_argument("--top-p", type=numbers.share, default=1.0, metavar="P", help="default: 1.0")
    parser.add_argument("--max-new-tokens", type=positive, default=1024, metavar="N", help="tokens (default: 1024)")
    parser.add_argument("--seed", type=numbers.seed, default=None, metavar="N", help="the same draw again")
    parser.add_argument(
        "--voter", default="", metavar="NAME", help="who votes, where several people share this machine"
    )


def _board(group: Group) -> None:
    parser = group.add(
        "leaderboard", "show the ratings with their intervals", _lazily("fcd.cli.arena_board", "leaderboard")
    )
    add_filters(parser)
    parser.add_argument(
        "--method", choices=("bradley_terry", "elo"), default="bradley_terry", help="default: bradley_terry"
    )
    parser.add_argument(
        "--intervals", choices=("sandwich", "bootstrap", "none"), default="sandwich", help="default: sandwich"
    )
    parser.add_argument("--rounds", type=positive, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    parser.add_argument("--style-control", action="store_true", help="ratings without what length and Markdown bring")
    parser.add_argument("--head-to-head", action="store_true", help="show who beat whom instead")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    add_json(parser)


def _votes(group: Group) -> None:
    votes = group.add("votes", "list votes, newest first", _lazily("fcd.cli.arena_board", "votes"))
    add_filters(votes)
    votes.add_argument("--limit", type=positive, default=50, metavar="N", help="default: 50")
    votes.add_argument("--voters", action="store_true", help="list voters, and those who vote unlike the others")
    add_json(votes)
    pairs = group.add("pairs", "list pairs of models, most informative first", _lazily("fcd.cli.arena_board", "pairs"))
    pairs.add_argument("--limit", type=positive, default=20, metavar="N", help="default: 20")
    add_json(pairs)


def _judge(group: Group) -> None:
    parser = group.add(
        "judge",
        "let a model judge answers to a file of prompts, in both orders",
        _lazily("fcd.cli.arena_judge", "judge"),
        epilog="Each line of FILE is a JSON object: a prompt ('prompt') or several turns ('turns'), perhaps a"
        " 'reference' answer, perhaps 'answers' by model; or a battle of `fcd arena export --format json`. Judges'"
        " votes are kept apart: `fcd arena leaderboard --source judge`.",
    )
    parser.add_argument("file", metavar="FILE", help="prompts, one JSON object per line")
    parser.add_argument("--judge", required=True, metavar="MODEL", help="the model that judges")
    parser.add_argument("--models", default="", metavar="A,B[,C...]", help="who answers, where the file has no answers")
    parser.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="per answer (default: 512)")
    parser.add_argument("--parallel", type=positive, default=4, metavar="N", help="requests at once (default: 4)")
    add_json(parser)


def _files(group: Group) -> None:
    out = group.add("export", "write votes to a file", _lazily("fcd.cli.arena_files", "export"))
    out.add_argument("--format", choices=_FORMATS, default="json", help="default: json")
    out.add_argument("-o", "--output", default="-", metavar="FILE", help="default: standard output")
    add_filters(out)
    into = group.add(
        "import",
        "take in FastChat's logs, its cleaned battles, or another fcd's votes",
        _lazily("fcd.cli.arena_files", "take_in"),
    )
    into.add_argument(
        "files", nargs="+", metavar="FILE", help="conv.json logs, cleaned battles, or exports; - is standard input"
    )
    into.add_argument("--format", choices=("auto", "fastchat", "battles", "json"), default="auto", help="default: auto")
    add_json(into)


def add_filters(parser: Parser) -> None:
    """Which votes a board or a file is about."""
    group = parser.add_argument_group("which votes")
    group.add_argument("--models", default="", metavar="A,B", help="only between these")
    group.add_argument("--tag", default="", metavar="POOL", help="only of this pool")
    group.add_argument("--language", default="", metavar="CODE", help="only in this language, such as en")
    group.add_argument("--since", default="", metavar="TIME", help="a date (2026-01-31), or how long ago (7d)")
    group.add_argument("--until", default="", metavar="TIME", help="a date, or how long ago")
    group.add_argument(
        "--min-tokens", type=numbers.whole(0, 2**31 - 1), default=0, metavar="N", help="both answers together, at least"
    )
    group.add_argument(
        "--max-tokens", type=numbers.whole(0, 2**31 - 1), default=0, metavar="N", help="both answers together, at most"
    )
    group.add_argument("--voter", default="", metavar="NAME", help="only of this voter")
    group.add_argument(
        "--source", choices=("people", "judge", "import", "all"), default="people",
        help="whose: people, here or imported; judge models; imported ones alone (default: people)",
    )  # fmt: skip
    group.add_argument("--named", action="store_true", help="also of battles whose models were known")
    group.add_argument("--flagged", action="store_true", help="also of flagged battles")


def _lazily(module: str, name: str) -> Handler:
    """The handler is imported when it is called: parsers are built for help and completions too."""

    def call(args: argparse.Namespace) -> Any:
        handler: Callable[[argparse.Namespace], Any] = getattr(import_module(module), name)
        return handler(args)

    return call
