"""`fcd alias NAME MODEL`: names of one's own, kept in config.toml."""

from __future__ import annotations

import argparse
import re

from fcd.cli.command import Parser, add_json
from fcd.cli.output import note, print_json, printable, table
from fcd.errors import EXIT_OK, NotFound, UsageError

_NAME = re.compile(r"[^\W_][\w.+:/-]*")
"""What can be typed without quotes, and stand in a request; `@` asks for a quantization."""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the new name; without it, aliases are listed")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="what it means: a model's name, a folder or a repo")
    parser.add_argument("--remove", action="store_true", help="take NAME out again")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    file = resolve_paths().config_file
    aliases = load_settings(file).aliases
    if args.name is None:
        if args.json:
            print_json(aliases)
        elif aliases:
            print(table(("NAME", "MODEL"), [(name, model) for name, model in aliases.items()]))
        else:
            print("There are no aliases. `fcd alias NAME MODEL` makes one.")
        return EXIT_OK
    if args.remove:
        if args.name not in aliases:
            raise NotFound(f"There is no alias '{args.name}'.", hint="`fcd alias` lists them.")
        _write({name: model for name, model in aliases.items() if name != args.name})
        print(f"{args.name} is no alias any more.")
        return EXIT_OK
    if args.model is None:
        raise UsageError("fcd alias needs a NAME and a MODEL.", hint="For example: fcd alias small Qwen/Qwen3-0.6B")
    _add(args.name, args.model, aliases)
    return EXIT_OK


def _add(name: str, model: str, aliases: dict[str, str]) -> None:
    from fcd.builtin import is_builtin
    from fcd.catalog import resolve
    from fcd.catalog.reference import MAX_NAME
    from fcd.cli.model_flags import for_daemon
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    if not _NAME.fullmatch(name) or ".." in name or len(name) > MAX_NAME:
        raise UsageError(
            f"fcd alias: '{printable(name[:80])}' cannot be a name.",
            hint="A name begins with a letter or digit and holds letters, digits and . _ - + : / only.",
        )
    if is_builtin(name):
        raise UsageError(f"fcd alias: {name} is a built-in model's own name.", hint="Choose another name.")
    target = for_daemon(model)
    settings = load_settings(resolve_paths().config_file)
    settings.aliases = {**aliases, name: target}
    reference = resolve(name, settings)
    _write(settings.aliases)
    print(f"{name} is {target}.")
    if reference.kind == "repo":
        note(f"It is not on this machine yet: `fcd pull {reference.repo}` downloads it.")


def _write(aliases: dict[str, str]) -> None:
    import tomli_w

    from fcd.chatlog import write_atomically
    from fcd.paths import resolve_paths
    from fcd.settings import read_config

    file = resolve_paths().config_file
    tree = read_config(file)
    tree["aliases"] = aliases
    if not aliases:
        del tree["aliases"]
    write_atomically(file, tomli_w.dumps(tree).encode())
