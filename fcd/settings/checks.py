"""What settings may not be, said with the line of config.toml that is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fcd.errors import ConfigError
from fcd.settings.tables import MOST_REPLICAS, PROFILE_RANGES, SECTIONS, EnginesSettings, ModelSettings, Settings
from fcd.settings.units import parse_duration

_NOT_OPENAI = ("top_k", "min_p", "repetition_penalty")
"""Those that OpenAI's own routes do not have."""

_HEADER = re.compile(r"^\s*\[+([^\]]+)\]")
_AT = re.compile(r" - at `\$\.(\w+(?:\.\w+)?)(\[\.\.\.\])?(?:\.(\w+))?")


def check_tree(tree: Mapping[str, Any], config_file: Path) -> None:
    """Refuse keys that nothing reads, naming the nearest that exists and the line."""
    _check_keys(tree, Settings, "", config_file)
    _check_keys(_table(tree, "engines", config_file), EnginesSettings, "engines.", config_file)
    for section, struct in SECTIONS.items():
        _check_keys(_table(tree, section, config_file), struct, f"{section}.", config_file)
    for name, table in _table(tree, "models", config_file).items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"{config_file}: models.{name} must be a table, like [models.{name}].")
        _check_keys(table, ModelSettings, f"models.{name}.", config_file)


def converted(tree: Mapping[str, Any], where: str) -> Settings:
    """The settings of a tree whose keys are known.

    Raises:
        ConfigError: a value does not fit.
    """
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise _misfit(tree, where, error) from error
    if not 0 <= settings.daemon.port <= 65535:
        raise ConfigError(f"{where}: daemon.port must be between 0 and 65535, not {settings.daemon.port}.")
    parse_duration(settings.daemon.keep_alive)
    try:
        parse_duration(settings.engines.vllm.sleep_ttl)
    except ConfigError as error:
        raise ConfigError(f"{where}: engines.vllm.sleep_ttl: {error.message}") from error
    _check_adapters(where, settings)
    for name, model in settings.models.items():
        _check_model(where, name, model)
        if model.keep_alive:
            try:
                parse_duration(model.keep_alive)
            except ConfigError as error:
                raise ConfigError(f"{where}: models.{name}.keep_alive: {error.message}") from error
    return settings


def _misfit(tree: Mapping[str, Any], where: str, error: msgspec.ValidationError) -> ConfigError:
    """The error with the line of the setting that it is about. msgspec writes `[...]` for a name of the user's own."""
    found = _AT.search(str(error))
    if found is None:
        return ConfigError(f"{where}: {error}")
    table, unnamed, key = found.groups()
    name = f"{table}.{key}" if key else table
    if table == "models" and unnamed:
        owner = next(each for each, model in tree["models"].items() if not _is_model(model))
        name = f"models.{owner}.{key}" if key else f"models.{owner}"
    text = str(error).split(" - at `")[0]
    return ConfigError(f"{_place(where, name)}: {name}: {text}")


def _is_model(value: Any) -> bool:
    try:
        msgspec.convert(value, ModelSettings)
    except msgspec.ValidationError:
        return False
    return True


def _check_model(where: str, name: str, model: ModelSettings) -> None:
    if not 1 <= model.replicas <= MOST_REPLICAS:
        where = _place(where, f"models.{name}.replicas")
        raise ConfigError(f"{where}: models.{name}.replicas must be between 1 and {MOST_REPLICAS}.")
    for field, (low, high) in PROFILE_RANGES.items():
        value = getattr(model, field)
        if value is not None and not low <= value <= high:
            where = _place(where, f"models.{name}.{field}")
            raise ConfigError(f"{where}: models.{name}.{field} must be between {low} and {high}, not {value}.")
    if not 0 <= model.gpu_memory_utilization <= 1:
        where = _place(where, f"models.{name}.gpu_memory_utilization")
        raise ConfigError(f"{where}: models.{name}.gpu_memory_utilization must be between 0 and 1.")
    if model.max_model_len < 0:
        where = _place(where, f"models.{name}.max_model_len")
        raise ConfigError(f"{where}: models.{name}.max_model_len must not be negative.")
    if model.engine == "command" or model.command:
        for field in _NOT_OPENAI:
            if getattr(model, field) is not None:
                where = _place(where, f"models.{name}.{field}")
                raise ConfigError(
                    f"{where}: models.{name}.{field}: OpenAI's routes have no such field, and a command's server may "
                    "pass over it without a word. Give it to the command itself."
                )


def _check_adapters(where: str, settings: Settings) -> None:
    """An adapter's name is a model's name: nothing else may have it."""
    taken = dict.fromkeys(settings.models, "a model")
    taken.update(dict.fromkeys(settings.aliases, "an alias"))
    for base, model in settings.models.items():
        for name, path in model.adapters.items():
            place = _place(where, f"models.{base}.adapters.{name}")
            if name in taken:
                raise ConfigError(f"{place}: models.{base}.adapters.{name}: {taken[name]} has this name already.")
            if not name or not name.isprintable() or name != name.strip() or {",", "="} & set(name):
                raise ConfigError(f"{place}: models.{base}.adapters: {name!r} cannot be a model's name.")
            if not path:
                raise ConfigError(f"{place}: models.{base}.adapters.{name} names no folder.")
            taken[name] = f"an adapter of models.{base}"


def _table(tree: Mapping[str, Any], section: str, config_file: Path) -> Mapping[str, Any]:
    table = tree
    for part in section.split("."):
        inner = table.get(part, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{config_file}: {section} must be a table, like [{section}].")
        table = inner
    return table


def _check_keys(table: Mapping[str, Any], struct: type[msgspec.Struct], prefix: str, config_file: Path) -> None:
    for key in table:
        if key not in struct.__struct_fields__:
            line = _line_of(config_file, key)
            where = f"{config_file}, line {line}" if line else str(config_file)
            raise ConfigError(f"{where}: unknown setting '{prefix}{key}'.{nearest(key, struct.__struct_fields__)}")


def nearest(word: str, words: Any) -> str:
    """A question that names the nearest of the words, if there is one."""
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def _line_of(config_file: Path, key: str, table: str = "") -> int:
    """The line that sets a key, of one table where that is named; 0 when it is not found."""
    try:
        lines = config_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    pattern = re.compile(rf'^\s*(\[.*\b)?"?{re.escape(key)}"?\s*[\]=.]')
    inside = ""
    for number, line in enumerate(lines, 1):
        header = _HEADER.match(line)
        if header is not None:
            inside = header.group(1).replace('"', "").replace("'", "").replace(" ", "")
        if pattern.match(line) and (not table or inside == table):
            return number
    return 0


def _place(where: str, name: str) -> str:
    """The file, with the line of a setting such as `models.mine.top_p` where it is found."""
    table, _, key = name.rpartition(".")
    line = _line_of(Path(where), key, table) if key else 0
    return f"{where}, line {line}" if line else where
