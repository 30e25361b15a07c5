"""`fcd config`: read and change settings."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from fcd.cli.command import Group, Parser, add_json, run_subcommand
from fcd.cli.output import note, print_json
from fcd.errors import EXIT_OK, FcdError

run = run_subcommand


def add_arguments(parser: Parser) -> None:
    group = Group(parser)
    where = group.add("path", "print where config.toml is", _path)
    add_json(where)
    show = group.add("show", "print every setting as it is in force, with the file and the environment", _show)
    add_json(show)
    get = group.add("get", "print one setting", _get)
    get.add_argument("name", metavar="SECTION.KEY", help="such as chat.model")
    add_json(get)
    change = group.add("set", "change one setting in config.toml", _set)
    change.add_argument("name", metavar="SECTION.KEY", help="such as chat.model")
    change.add_argument(
        "value", metavar="VALUE", help="lists are written with commas between; null takes it out where that is allowed"
    )
    group.add("edit", "open config.toml in $EDITOR, and check it afterwards", _edit)


def _file() -> Path:
    from fcd.paths import resolve_paths

    return resolve_paths().config_file


def _path(args: argparse.Namespace) -> int:
    file = _file()
    if args.json:
        print_json({"path": str(file), "exists": file.is_file()})
    else:
        print(file)
    return EXIT_OK


def _show(args: argparse.Namespace) -> int:
    import msgspec

    from fcd.settings import load_settings

    tree = msgspec.to_builtins(load_settings(_file()))
    if args.json:
        print_json(tree)
        return EXIT_OK
    import tomli_w

    unset = [f"{section}.{key}" for section, table in tree.items() for key, value in table.items() if value is None]
    shown = {name: {key: value for key, value in table.items() if value is not None} for name, table in tree.items()}
    print(tomli_w.dumps(shown), end="")
    if unset:
        print(f"\n# not set: {', '.join(unset)}")
    return EXIT_OK


def _get(args: argparse.Namespace) -> int:
    from fcd.settings import get_setting, load_settings

    value = get_setting(load_settings(_file()), args.name)
    if args.json:
        print_json(value)
    else:
        print(_as_text(value))
    return EXIT_OK


def _set(args: argparse.Namespace) -> int:
    from fcd.settings import get_setting, load_settings, write_setting

    file = _file()
    had_comments = file.is_file() and any(
        line.lstrip().startswith("#") for line in file.read_text(encoding="utf-8").splitlines()
    )
    value = write_setting(file, args.name, args.value)
    print(f"{args.name} = {_as_text(value)}" if value is not None else f"{args.name} is not set any more.")
    if had_comments:
        note("The comments in config.toml are gone: `fcd config edit` keeps them.")
    in_force = get_setting(load_settings(file), args.name)
    if in_force != value:
        note(f"An environment variable overrides it: {args.name} is {_as_text(in_force)} for now.")
    elif args.name.startswith(("daemon.", "worker.")):
        note("A running daemon takes it up at `fcd daemon restart`.")
    return EXIT_OK


def _edit(args: argparse.Namespace) -> int:
    from fcd.settings import load_settings

    file = _file()
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode
    except OSError as error:
        raise FcdError(f"The editor '{editor}' cannot be started: {error.strerror}.", hint="Set EDITOR.") from error
    if code:
        raise FcdError(f"The editor '{editor}' ended with exit code {code}.", hint=f"The file is {file}.")
    load_settings(file)
    return EXIT_OK


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={inner}" for name, inner in value.items())
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
