"""Every command: its name, what it does, and the module that does it. Imports none of them."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    name: str
    summary: str
    """Lower case, no full stop: it stands in a list."""
    module: str
    usage: str = ""
    """What follows the name, for the list in `fcd --help`."""
    passthrough: bool = False
    """Words after `--` are kept apart, in `args.passthrough`."""


SECTIONS: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Talk",
        (
            Entry("chat", "talk to a model; with PROMPT or a pipe, print one answer", "fcd.cli.chat", "[PROMPT...]"),
            Entry("run", "the same, with the model named first", "fcd.cli.run", "MODEL [PROMPT...]"),
            Entry("tui", "open the interface in the terminal", "fcd.cli.tui"),
            Entry("chats", "list, find, export and import the chats that are kept", "fcd.cli.chats", "COMMAND"),
            Entry("arena", "blind battles, votes, and the board they make", "fcd.cli.arena", "COMMAND"),
        ),
    ),
    (
        "Models",
        (
            Entry("ls", "list the models that can be used", "fcd.cli.ls"),
            Entry("ps", "list what is running", "fcd.cli.ps"),
            Entry("load", "load a model into the daemon", "fcd.cli.load", "MODEL", passthrough=True),
            Entry("unload", "unload a model", "fcd.cli.unload", "MODEL"),
            Entry("show", "say what a model is and what it needs", "fcd.cli.show", "MODEL"),
            Entry("pull", "download a model from the Hugging Face hub", "fcd.cli.pull", "REPO"),
            Entry("rm", "remove a downloaded model", "fcd.cli.rm", "MODEL"),
            Entry("alias", "give a model a name of your own", "fcd.cli.alias", "NAME MODEL"),
            Entry("ping", "ask a model for one short answer, to see that it works", "fcd.cli.ping", "MODEL"),
        ),
    ),
    (
        "Serve",
        (
            Entry("daemon", "start, stop and watch the background daemon", "fcd.cli.daemon", "COMMAND"),
            Entry("worker", "run models here or on other machines", "fcd.cli.worker", "COMMAND", passthrough=True),
            Entry("engine", "install vLLM and list what can run models here", "fcd.cli.engine", "COMMAND"),
            Entry("key", "make and revoke API keys", "fcd.cli.key", "COMMAND"),
            Entry("token", "make and revoke join tokens for remote workers", "fcd.cli.token", "COMMAND"),
        ),
    ),
    (
        "Look after it",
        (
            Entry("config", "read and change settings", "fcd.cli.config", "COMMAND"),
            Entry("doctor", "check this machine and say what to mend", "fcd.cli.doctor"),
            Entry("completion", "print completions for a shell", "fcd.cli.completion", "bash|zsh|fish"),
            Entry("version", "print the version", "fcd.cli.version"),
        ),
    ),
)

COMMANDS: dict[str, Entry] = {entry.name: entry for _, entries in SECTIONS for entry in entries}
