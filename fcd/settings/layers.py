"""The layers of settings, read together: defaults < config.toml < FCD_* environment < flags; and writing them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fcd.errors import ConfigError, UnknownSetting
from fcd.settings.checks import check_tree, converted, nearest
from fcd.settings.tables import SECTIONS, Settings

_SHORT = {"FCD_HOST": "FCD_DAEMON_HOST", "FCD_PORT": "FCD_DAEMON_PORT"}


def load_settings(
    config_file: Path,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Read all layers. `overrides` maps `section.key` to a value, as flags do; None values are passed over.

    Raises:
        ConfigError: the file, the environment or a flag holds what cannot be used.
    """
    env = os.environ if environ is None else environ
    tree = read_config(config_file)
    check_tree(tree, config_file)
    _apply_environment(tree, env)
    for name, value in (overrides or {}).items():
        if value is not None:
            section, _, key = name.rpartition(".")
            _made(tree, section)[key] = value
    return converted(tree, str(config_file))


def write_snapshot(file: Path, settings: Settings) -> None:
    """Put settings that are in force where a worker reads them: config.toml may have been broken since."""
    temporary = file.with_name(f"{file.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.encode(settings))
    temporary.replace(file)


def read_snapshot(file: Path) -> Settings:
    """Raises ConfigError: it is not there or not whole."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Settings)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"The settings that the daemon left in {file} cannot be read: {error}") from error


def read_config(config_file: Path) -> dict[str, Any]:
    """The file's tables; a missing file is an empty one."""
    try:
        text = config_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config_file} cannot be read: {error}") from error
    import tomllib  # most people have no such file, and every command starts here

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{config_file} is not valid TOML: {error}") from error


def write_setting(config_file: Path, name: str, value: str) -> Any:
    """Set `section.key` in the file, keeping the rest; returns the value as it was understood.

    Comments in the file are not kept: TOML writers drop them, and `fcd config edit` keeps them.
    """
    import tomli_w

    tree = read_config(config_file)
    section, _, key = name.rpartition(".")
    if name not in setting_names():
        raise UnknownSetting(f"There is no setting '{name}'.{nearest(name, setting_names())}")
    parsed = _parse(SECTIONS[section], key, value, name)
    if parsed is None:
        _made(tree, section).pop(key, None)
    else:
        _made(tree, section)[key] = msgspec.to_builtins(parsed)
    check_tree(tree, config_file)
    converted(tree, str(config_file))
    config_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = config_file.with_suffix(".toml.new")
    temporary.write_text(tomli_w.dumps(tree), encoding="utf-8")
    temporary.replace(config_file)
    return parsed


def setting_names() -> list[str]:
    """Every `section.key` that has one value."""
    return [f"{section}.{field}" for section, struct in SECTIONS.items() for field in struct.__struct_fields__]


def get_setting(settings: Settings, name: str) -> Any:
    """The value of `section.key`.

    Raises:
        UnknownSetting: there is no such setting.
    """
    if name not in setting_names():
        raise UnknownSetting(f"There is no setting '{name}'.{nearest(name, setting_names())}")
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _made(tree: dict[str, Any], section: str) -> dict[str, Any]:
    """A section's table, made where it is missing."""
    for part in section.split("."):
        tree = tree.setdefault(part, {})
    return tree


def _apply_environment(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    values = dict(env)
    for short, full in _SHORT.items():
        if short in env:
            values[full] = env[short]
    for section, struct in SECTIONS.items():
        for key in struct.__struct_fields__:
            name = f"FCD_{section.replace('.', '_')}_{key}".upper()
            if name in values:
                _made(tree, section)[key] = _parse(struct, key, values[name], name)


def _parse(struct: type[msgspec.Struct], key: str, text: str, name: str) -> Any:
    """Read a string as the field's own type: words for strings, true/false, numbers, comma lists."""
    kind = next(field.type for field in msgspec.structs.fields(struct) if field.name == key)
    value: Any = text
    if kind == list[str]:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif kind == dict[str, str]:
        value = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    elif kind is bool:
        value = {"1": True, "true": True, "yes": True, "on": True}.get(text.lower(), text)
        value = {"0": False, "false": False, "no": False, "off": False}.get(text.lower(), value)
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{name}={text!r} cannot be used: {error}") from error
