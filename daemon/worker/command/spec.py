"""Which command serves a model: from a flag, from config.toml, or ready-made for a kind of file."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from pathlib import Path

import msgspec

from fcd.catalog import Reference
from fcd.errors import ModelLoadError, UsageError
from fcd.settings import ModelSettings, Settings

_FIELD = re.compile(r"\{([a-z]*)\}")
_FIELDS = ("model", "port", "host", "name", "key")
_KEY = "{key}"
_GGUF = "llama-server -m {model} --host {host} --port {port} --alias {name} --jinja"
"""llama.cpp's server."""
_GGUF_KEY = "LLAMA_API_KEY"
"""Where it looks for the key that it asks for: everybody on a machine can read a command line."""


class CommandSpec(msgspec.Struct, frozen=True):
    """A command before its port is known."""

    template: str
    model: str
    """What `{model}` stands for."""
    health: str = "/health"
    env: dict[str, str] = {}
    """`{key}` is filled in; nothing else is."""
    stop_signal: int = int(signal.SIGTERM)
    key_variable: str = ""
    """The environment variable that the server takes its key from, if it takes it from one."""
    vision: bool | None = None
    """Whether its model sees images; None: as far as the server says."""

    def environment(self, key: str) -> dict[str, str]:
        """For the server. Without a key, a variable that was to hold it is left out."""
        known = {name: value for name, value in self.env.items() if key or _KEY not in value}
        filled = {name: value.replace(_KEY, key) for name, value in known.items()}
        return filled | ({self.key_variable: key} if self.key_variable and key else {})

    @property
    def asks_for_key(self) -> bool:
        """Whether it is told the key that it is to ask for."""
        return bool(self.key_variable) or self.uses("key") or any(_KEY in value for value in self.env.values())

    def argv(self, *, host: str, port: int, name: str, key: str) -> list[str]:
        """The words of the command. What is filled in never becomes several words.

        Raises:
            UsageError: the command is empty, or has an unknown placeholder.
        """
        values = {"model": self.model, "port": str(port), "host": host, "name": name, "key": key}
        try:
            words = shlex.split(self.template)
        except ValueError as error:
            raise UsageError(f"The command cannot be read: {error}: {self.template}") from None
        for field in _FIELD.findall(self.template):
            if field not in _FIELDS:
                raise UsageError(
                    f"The command has the unknown placeholder '{{{field}}}'.",
                    hint="There are: " + ", ".join(f"{{{each}}}" for each in _FIELDS) + ".",
                )
        filled = [_FIELD.sub(lambda found: values[found[1]], word) for word in words]
        if not filled:
            raise UsageError("The command is empty.")
        return filled

    def uses(self, field: str) -> bool:
        return f"{{{field}}}" in self.template


def command_for(reference: Reference, settings: Settings, given: str, *, exposed: bool) -> CommandSpec:
    """The command that serves a model. `exposed`: others than this machine will reach it.

    Raises:
        UsageError: there is none, or it could not be reached, or would be open to everybody.
        ModelLoadError: its program is not installed.
    """
    configured = settings.models.get(reference.name, ModelSettings()) if reference.configured else ModelSettings()
    model = str(reference.path or configured.path or reference.repo or reference.name)
    own = given or configured.command
    template = own or _ready_made(reference.path)
    if not template:
        raise UsageError(
            f"No command is known that serves '{reference.name}'.",
            hint='Give --command "server -m {model} --port {port}", or command = "..." under [models.NAME].',
        )
    spec = CommandSpec(
        template,
        model,
        configured.health,
        dict(configured.env),
        signal_number(configured.stop_signal),
        "" if own else _GGUF_KEY,
        configured.vision,
    )
    if not spec.uses("port"):
        raise UsageError("The command must say {port}, where it is to listen.")
    if exposed:
        _check_exposed(spec)
    program = spec.argv(host="", port=0, name="", key="")[0]
    if shutil.which(program) is None:
        hint = "llama.cpp brings it: https://github.com/ggml-org/llama.cpp" if program == "llama-server" else ""
        raise ModelLoadError(f"The program '{program}' is not installed here, or not in PATH.", hint=hint)
    return spec


def signal_number(name: str) -> int:
    """Raises UsageError for what is no signal."""
    found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise UsageError(f"'{name}' is not a signal: write SIGTERM or SIGINT.")
    return int(found)


def _ready_made(path: Path | None) -> str:
    return _GGUF if path is not None and path.suffix.lower() == ".gguf" else ""


def _check_exposed(spec: CommandSpec) -> None:
    missing = [field for field, said in (("host", spec.uses("host")), ("key", spec.asks_for_key)) if not said]
    if missing:
        raise UsageError(
            "Other machines are to reach this server, but the command does not say "
            + " and ".join(f"{{{field}}}" for field in missing)
            + ".",
            hint="{host} is the address that it listens on, {key} the key that it asks for: best in the settings, "
            'as env = { API_KEY = "{key}" }, since everybody on a machine can read a command line.',
        )
