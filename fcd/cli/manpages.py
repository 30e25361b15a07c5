"""The manual, made from the parsers, the settings and the table of routes: `python -m fcd.cli.manpages [--check]`."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from pathlib import Path
from typing import NamedTuple

import fcd
from fcd.cli.describe import Described, Flag, describe_all
from fcd.cli.roff import Page, bold, escape, italic, joined
from fcd.cli.routes import ROUTES
from fcd.cli.table import COMMANDS, SECTIONS
from fcd.settings import tables

FOLDER = Path(fcd.__file__).resolve().parent.parent / "man"

_EXIT_STATUS = (
    ("0", "done"),
    ("1", "failed; stderr says why and what to do next"),
    ("2", "wrong usage, or a setting that cannot be used"),
    ("3", "the daemon is not running (or, for `fcd daemon start`, is already running)"),
    ("4", "there is no such model, worker or setting"),
    ("130", "interrupted"),
)
_ENVIRONMENT = (
    ("FCD_HOME", "one folder for all of fcd's files"),
    ("FCD_CONFIG_DIR, FCD_DATA_DIR, FCD_STATE_DIR, FCD_CACHE_DIR, FCD_RUNTIME_DIR", "each of them by itself"),
    ("FCD_HOST, FCD_PORT", "where the daemon listens"),
    ("FCD_URL, FCD_API_KEY", "the daemon that commands talk to, and the key for it; it is not started then"),
    ("FCD_SECTION_KEY", "any setting of fcd-config(5), such as `FCD_CHAT_MODEL`"),
    ("FCD_DEBUG", "1 shows where in the program a failure happened"),
    ("NO_COLOR", "no colours and no drawing on the terminal"),
    ("HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE", "the Hugging Face hub's own variables"),
)
_FILES = (
    ("config.toml", "in the config folder: settings, see fcd-config(5)"),
    ("fcd.db", "in the data folder: keys and tokens, as hashes"),
    ("chats/", "in the data folder: conversations"),
    ("logs/", "in the state folder: the daemon's log and the workers'"),
    ("chat-history", "in the state folder: lines typed in conversations"),
    ("daemon.json, admin.token", "in the runtime folder: the running daemon, and what opens it to its owner"),
)


def pages() -> dict[str, str]:
    """File name to text."""
    commands = describe_all()
    made = {"fcd.1": _main_page(commands), "fcd-config.5": _config_page(), "fcd-api.7": _api_page()}
    for command in commands:
        made[f"fcd-{command.name}.1"] = _command_page(command)
    return made


def _main_page(commands: list[Described]) -> str:
    page = Page("fcd", 1, "local language models in the terminal", fcd.__version__)
    page.heading("SYNOPSIS")
    page.synopsis(f"{bold('fcd')} {italic('COMMAND')} [{italic('ARGUMENTS')}]")
    page.heading("DESCRIPTION")
    page.paragraph(
        "fcd runs language models on this machine. A background daemon loads them, answers OpenAI's routes on"
        " `http://localhost:8000/v1`, and lets workers on other machines join. `fcd chat` talks to a model, and starts"
        " the daemon when it is not up; the first model is built in and needs no network."
    )
    summaries = {command.name: command.summary for command in commands}
    for title, entries in SECTIONS:
        page.subheading(title)
        for entry in entries:
            usage = f"{bold('fcd ' + entry.name)} {italic(entry.usage)}" if entry.usage else bold(f"fcd {entry.name}")
            page.term(usage, f"{summaries[entry.name]}; see fcd-{entry.name}(1)")
    page.heading("EXIT STATUS")
    for code, meaning in _EXIT_STATUS:
        page.term(code, meaning)
    page.heading("ENVIRONMENT")
    for name, meaning in _ENVIRONMENT:
        page.term(name, meaning)
    page.heading("FILES")
    page.paragraph("`fcd config path` and `fcd doctor` say where the folders are.")
    for name, meaning in _FILES:
        page.term(name, meaning)
    page.heading("SEE ALSO")
    page.paragraph("fcd-chat(1), fcd-daemon(1), fcd-config(5), fcd-api(7)")
    return page.text()


def _command_page(command: Described) -> str:
    page = Page(f"fcd-{command.name}", 1, command.summary, fcd.__version__)
    page.heading("SYNOPSIS")
    for line in _synopses(command):
        page.synopsis(line)
    page.heading("DESCRIPTION")
    page.paragraph(command.description)
    if command.name in ("chat", "run"):
        _describe_conversation(page)
    for word in command.words:
        page.term(word.name, word.summary)
    _flags(page, command)
    for sub in command.subcommands:
        page.heading(f"fcd {command.name} {sub.name}")
        page.paragraph(sub.description)
        for word in sub.words:
            page.term(word.name, word.summary)
        _flags(page, sub, heading=False)
        _epilog(page, sub)
    _epilog(page, command)
    page.heading("EXIT STATUS")
    page.paragraph(
        "As in fcd(1): " + "; ".join(f"{code} {meaning.partition(';')[0]}" for code, meaning in _EXIT_STATUS)
    )
    page.heading("SEE ALSO")
    page.paragraph("fcd(1), fcd-config(5), fcd-api(7)")
    return page.text()


def _synopses(command: Described) -> list[str]:
    if command.subcommands:
        return [line for sub in command.subcommands for line in [_synopsis(f"fcd {command.name} {sub.name}", sub)]]
    return [_synopsis(f"fcd {command.name}", command)]


def _synopsis(name: str, command: Described) -> str:
    words = []
    for word in command.words:
        shown = italic(word.name) + ("..." if word.many else "")
        words.append(f"[{shown}]" if word.optional else shown)
    entry = COMMANDS.get(name.split()[1])
    if entry is not None and entry.passthrough and name.endswith(" run"):
        words.append(f"[{bold('--')} {italic('ENGINE ARGUMENTS')}]")
    flags = ["[flags]"] if command.flags else []
    return joined([bold(name), *flags, *words], " ")


def _describe_conversation(page: Page) -> None:
    from fcd.cli.chatting import slash

    page.paragraph(
        "With a question, or with text on stdin, one answer is printed and the command ends: the two are joined when"
        " both are there. Otherwise a conversation begins. It is kept after every turn, so that `--continue` can go"
        " on with it. In a conversation:"
    )
    for command in slash.COMMANDS:
        old = f" (FastChat: {command.old})" if command.old else ""
        page.term(f"{command.name} {command.argument}".rstrip(), f"{command.summary}{old}")
    page.paragraph(
        "Enter sends; Ctrl-J, Esc Enter, or a backslash at the end of a line begin a new line. Ctrl-C stops an answer"
        " and keeps what was written; twice at the prompt leaves, as Ctrl-D does."
    )


def _flags(page: Page, command: Described, *, heading: bool = True) -> None:
    if command.flags and heading:
        page.heading("OPTIONS")
    for title, flags in command.groups:
        if title:
            page.subheading(title[:1].upper() + title[1:])
        for flag in flags:
            page.term(_flag(flag), flag.summary)


def _flag(flag: Flag) -> str:
    names = joined(bold(name) for name in flag.names)
    return f"{names} {italic(flag.value)}" if flag.value else names


def _epilog(page: Page, command: Described) -> None:
    if not command.epilog:
        return
    if command.epilog.startswith("examples:"):
        page.heading("EXAMPLES")
        page.example("\n".join(line[2:] for line in command.epilog.splitlines()[1:]))
    elif "\n" in command.epilog:
        page.example(command.epilog)
    else:
        page.paragraph(command.epilog)


class Setting(NamedTuple):
    name: str
    kind: str
    default: str
    meaning: str


def read_settings() -> list[tuple[str, str, list[Setting]]]:
    """(table, what it is, its keys), from the source: Python keeps no docstrings of fields."""
    names = {kind.__name__: f"[{section}]" for section, kind in tables.SECTIONS.items()}
    names["ModelSettings"] = "[models.NAME]"
    found = []
    for node in ast.parse(inspect.getsource(tables)).body:
        if isinstance(node, ast.ClassDef) and node.name in names:
            found.append((names[node.name], ast.get_docstring(node) or "", _fields(node)))
    return found


def _fields(node: ast.ClassDef) -> list[Setting]:
    fields: list[Setting] = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value is not None:
            fields.append(Setting(item.target.id, _kind(item.annotation), _default(item.value), ""))
        elif isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and fields:
            fields[-1] = fields[-1]._replace(meaning=" ".join(str(item.value.value).split()))
    return fields


def _kind(annotation: ast.expr) -> str:
    text = ast.unparse(annotation)
    if text.startswith("Literal["):
        return "one of " + ", ".join(str(value) for value in ast.literal_eval("[" + text[8:-1] + "]") if value)
    plain = {
        "str": "text",
        "int": "number",
        "float": "number",
        "bool": "true or false",
        "list[str]": "list",
        "dict[str, str]": "table",
        "float | None": "number, or not set",
    }
    return plain.get(text, text)


def _default(value: ast.expr) -> str:
    text = ast.unparse(value)
    if isinstance(value, ast.Name):
        text = repr(getattr(tables, value.id))
    elif isinstance(value, ast.BinOp):
        text = str(eval(compile(ast.Expression(value), "default", "eval"), {"__builtins__": {}}))
    return {"True": "true", "False": "false", "None": "not set"}.get(text, text.replace("'", '"'))


def _config_page() -> str:
    page = Page("fcd-config", 5, "settings of fcd", fcd.__version__)
    page.heading("DESCRIPTION")
    page.paragraph(
        "`config.toml` lies in the config folder (`fcd config path`). Every key may be left out. The environment stands"
        " over the file, and flags over both: `FCD_SECTION_KEY` sets a key of the first four tables, with commas"
        " between the entries of a list. A key that nothing reads is an error. Durations are written 30s, 5m, 1h,"
        " a number of seconds, or -1 for ever."
    )
    for table, meaning, fields in read_settings():
        page.heading(table)
        page.paragraph(meaning)
        for field in fields:
            name = f"{bold(field.name)} ({escape(field.kind)}; default {escape(field.default)})"
            page.term(name, field.meaning)
    page.heading("[aliases]")
    page.paragraph('A name of your own for each model: `small = "Qwen/Qwen3-0.6B"`. `fcd alias` writes it.')
    page.heading("EXAMPLE")
    page.example(
        '[chat]\nmodel = "small"\n\n[aliases]\nsmall = "Qwen/Qwen3-0.6B"\n\n'
        '[models.notes]\npath = "/srv/models/notes"\nquantization = "8bit"\npreload = true'
    )
    page.heading("SEE ALSO")
    page.paragraph("fcd-config(1), fcd(1)")
    return page.text()


def _api_page() -> str:
    page = Page("fcd-api", 7, "routes of the fcd daemon", fcd.__version__)
    page.heading("DESCRIPTION")
    page.paragraph(
        "The daemon listens on one port, 8000 on loopback unless it is told otherwise. Bodies are JSON. Errors have"
        " OpenAI's shape: `error.message`, `error.type`, `error.param`, `error.code`. A field of a request that is"
        " not understood is refused with status 400 and its name in `error.param`."
    )
    page.heading("ROUTES")
    for title, need, routes in ROUTES:
        page.subheading(title)
        page.paragraph(need)
        for route in routes:
            page.term(f"{route.methods} {route.path}", route.summary)
    page.heading("EXAMPLE")
    page.example(
        "curl http://localhost:8000/v1/chat/completions \\\n"
        "  -H 'Content-Type: application/json' \\\n"
        '  -d \'{"model": "guide",\n'
        '       "messages": [{"role": "user", "content": "Hello"}]}\''
    )
    page.heading("SEE ALSO")
    page.paragraph("fcd(1), fcd-key(1), fcd-token(1)")
    return page.text()


def stale(folder: Path = FOLDER) -> list[str]:
    """Names of pages that are missing, differ, or stand for nothing."""
    made = pages()
    there = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.[157]")}
    return sorted(name for name in made.keys() | there.keys() if made.get(name) != there.get(name))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fcd.cli.manpages", description="Write the manual's pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is not current")
    args = parser.parse_args(words)
    if args.check:
        old = stale()
        if old:
            print(f"Not current: {', '.join(old)}. `python -m fcd.cli.manpages` writes them.", file=sys.stderr)
        return int(bool(old))
    made = pages()
    FOLDER.mkdir(exist_ok=True)
    for file in FOLDER.glob("*.[157]"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
