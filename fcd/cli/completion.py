"""`fcd completion SHELL`: completions, written out from the same tables and parsers as `--help`.

The scripts stand alone: pressing Tab starts no Python, but for the names of models.
"""

from __future__ import annotations

import argparse

from fcd.cli.command import Parser
from fcd.cli.describe import Described, describe_all
from fcd.errors import EXIT_OK

_MODEL_COMMANDS = ("run", "load", "unload", "show", "rm", "ping")
"""Commands whose first word is a model's name."""

_INSTALL = {
    "bash": "fcd completion bash > ~/.local/share/bash-completion/completions/fcd",
    "zsh": "fcd completion zsh > a folder of $fpath, named _fcd",
    "fish": "fcd completion fish > ~/.config/fish/completions/fcd.fish",
}


def add_arguments(parser: Parser) -> None:
    parser.epilog = "Install them with:\n" + "\n".join(f"  {line}" for line in _INSTALL.values())
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")
    parser.add_argument("--models", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.models:
        return _print_models()
    print({"bash": bash, "zsh": zsh, "fish": fish}[args.shell](describe_all()), end="")
    return EXIT_OK


def _print_models() -> int:
    """Names of models, for the shell to offer."""
    from fcd.catalog import list_models
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    print("\n".join(model.name for model in list_models(load_settings(resolve_paths().config_file))))
    return EXIT_OK


def bash(commands: list[Described]) -> str:
    """A completion function for bash 3.2 and later."""
    cases = []
    for command in commands:
        words = [*(sub.name for sub in command.subcommands), *command.flag_names]
        cases.append(f"        {command.name}) words={_quoted(words)} ;;")
        for sub in command.subcommands:
            cases.append(f'        "{command.name} {sub.name}") words={_quoted(sub.flag_names)} ;;')
    choices = [f"        {flag.name}) words={_quoted(flag.choices)} ;;" for flag in _flags_with_choices(commands)]
    names = " ".join(command.name for command in commands)
    models = "|".join(_MODEL_COMMANDS)
    return f"""# Completions of fcd for bash.
_fcd() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="${{COMP_WORDS[1]}}" words="" path=""
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{names} --help --version" -- "$current"))
        return
    fi
    case "$previous" in
        --model|-m) COMPREPLY=($(compgen -W "$(fcd completion bash --models 2>/dev/null)" -- "$current")); return ;;
        --model-path|--token-file) COMPREPLY=($(compgen -f -- "$current")); return ;;
{chr(10).join(choices)}
    esac
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    path="$command"
    case "$command" in
        {"|".join(command.name for command in commands if command.subcommands)})
            [ "$COMP_CWORD" -gt 2 ] && path="$command ${{COMP_WORDS[2]}}" ;;
    esac
    case "$path" in
{chr(10).join(cases)}
    esac
    case "$command" in
        {models})
            [ "$COMP_CWORD" -eq 2 ] && words="$words $(fcd completion bash --models 2>/dev/null)" ;;
    esac
    COMPREPLY=($(compgen -W "$words --help" -- "$current"))
}}
complete -o default -F _fcd fcd
"""


def zsh(commands: list[Described]) -> str:
    """A completion function for zsh."""
    lines = ["#compdef fcd", "# Completions of fcd for zsh.", "_fcd() {", "    local -a commands"]
    lines += ["    if (( CURRENT == 2 )); then", "        commands=("]
    lines += [f"            {_zsh_entry(command.name, command.summary)}" for command in commands]
    lines += ["        )", "        _describe command commands", "        return", "    fi", "    case $words[2] in"]
    for command in commands:
        lines.append(f"        {command.name})")
        if command.subcommands:
            lines += ["            if (( CURRENT == 3 )); then", "                commands=("]
            lines += [f"                    {_zsh_entry(sub.name, sub.summary)}" for sub in command.subcommands]
            lines += ["                )", "                _describe command commands", "                return"]
            lines += ["            fi", "            case $words[3] in"]
            lines += [f"                {sub.name}) {_zsh_flags(sub)} ;;" for sub in command.subcommands]
            lines += ["            esac ;;"]
        else:
            if command.name in _MODEL_COMMANDS:
                lines.append(
                    '            (( CURRENT == 3 )) && compadd -- ${(f)"$(fcd completion zsh --models 2>/dev/null)"}'
                )
            lines.append(f"            {_zsh_flags(command)} ;;")
    lines += [
        "    esac",
        "    _files",
        "}",
        'if [ "$funcstack[1]" = "_fcd" ]; then _fcd "$@"; else compdef _fcd fcd; fi',
    ]
    return "\n".join(lines) + "\n"


def fish(commands: list[Described]) -> str:
    """Completion rules for fish."""
    lines = ["# Completions of fcd for fish.", "complete -c fcd -f"]
    for command in commands:
        here = f"__fish_seen_subcommand_from {command.name}"
        lines.append(f"complete -c fcd -n __fish_use_subcommand -a {command.name} -d {_single(command.summary)}")
        if command.subcommands:
            names = " ".join(sub.name for sub in command.subcommands)
            first = f"{here}; and not __fish_seen_subcommand_from {names}"
            for sub in command.subcommands:
                lines.append(f"complete -c fcd -n {_single(first)} -a {sub.name} -d {_single(sub.summary)}")
                inside = f"{here}; and __fish_seen_subcommand_from {sub.name}"
                lines += [_fish_flag(flag.names, flag.summary, flag.choices, inside) for flag in sub.flags]
        lines += [_fish_flag(flag.names, flag.summary, flag.choices, here) for flag in command.flags]
        if command.name in _MODEL_COMMANDS:
            lines.append(f"complete -c fcd -n {_single(here)} -a '(fcd completion fish --models 2>/dev/null)'")
    return "\n".join(lines) + "\n"


def _flags_with_choices(commands: list[Described]) -> list[argparse.Namespace]:
    found: dict[str, list[str]] = {}
    for described in [*commands, *(sub for command in commands for sub in command.subcommands)]:
        for flag in described.flags:
            if flag.choices:
                found.setdefault(flag.names[-1], list(flag.choices))
    return [argparse.Namespace(name=name, choices=choices) for name, choices in found.items()]


def _quoted(words: list[str] | tuple[str, ...]) -> str:
    return '"' + " ".join(words) + '"'


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _zsh_entry(name: str, summary: str) -> str:
    return "'" + f"{name}:{summary}".replace("'", "'\\''") + "'"


def _zsh_flags(command: Described) -> str:
    return f"[[ $PREFIX == -* ]] && compadd -- {' '.join(command.flag_names)} --help"


def _fish_flag(names: tuple[str, ...], summary: str, choices: tuple[str, ...], condition: str) -> str:
    long = "".join(f" -l {name[2:]}" for name in names if name.startswith("--"))
    short = "".join(f" -s {name[1:]}" for name in names if not name.startswith("--"))
    values = f" -x -a {_single(' '.join(choices))}" if choices else ""
    return f"complete -c fcd -n {_single(condition)}{short}{long}{values} -d {_single(summary)}"
