"""`fcd ls`: the models that a name here reaches."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from fcd.cli.access import ask_models
from fcd.cli.command import Parser, add_json, run_async
from fcd.cli.output import Column, fitted, print_json, size
from fcd.errors import EXIT_OK

if TYPE_CHECKING:
    from fcd.settings import Settings


_COLUMNS = (
    Column(" NAME", shorten=True),
    Column("SOURCE"),
    Column("STATE"),
    Column("SIZE"),
    Column("CONTEXT"),
    Column("", shorten=True),
)


def add_arguments(parser: Parser) -> None:
    parser.epilog = "With a daemon running, its workers' models are listed too; * marks the default."
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    settings = load_settings(resolve_paths().config_file)
    return run_async(_list(args.json, settings))


async def _list(as_json: bool, settings: Settings) -> int:
    models = await ask_models()
    if models is None:
        from fcd.catalog import list_models

        models = list_models(settings)
    if as_json:
        print_json({"models": models})
        return EXIT_OK
    rows = [
        (
            ("*" if model.default else " ") + model.name,
            model.source,
            model.state,
            size(model.size_bytes),
            str(model.context_length or ""),
            model.description,
        )
        for model in models
    ]
    print(fitted(_COLUMNS, rows))
    return EXIT_OK
