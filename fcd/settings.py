"""Settings: defaults < config.toml < FCD_* environment < flags.

Every key is a field below; an unknown key is an error that names the nearest one. `FCD_<SECTION>_<KEY>` sets any of
them, and `FCD_HOST` and `FCD_PORT` are short for the daemon's.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from fcd.errors import ConfigError, UnknownSetting

DEFAULT_PORT = 8000
_MOST_ALIASES = 8
DEFAULT_MODEL = "guide"
MOST_REPLICAS = 64


class DaemonSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Where the daemon listens and what bounds it."""

    host: str = "127.0.0.1"
    """The address listened on; one that others can reach needs an API key."""
    port: int = DEFAULT_PORT
    """0 takes a free one."""
    allowed_hosts: list[str] = []
    """Host headers answered besides loopback names and the address listened on."""
    allowed_origins: list[str] = []
    """Web origins that may call; empty keeps CORS closed."""
    max_body_bytes: int = 32 * 1024 * 1024
    """The largest request."""
    max_queue: int = 256
    """Requests that may wait for one model, those being loaded included."""
    load_stall_s: float = 300.0
    """A load with no progress for this long has failed."""
    first_byte_s: float = 600.0
    """How long a worker may take before its first byte."""
    stall_s: float = 300.0
    """A stream with no byte for this long has stalled."""
    drain_s: float = 30.0
    """How long running requests may go on after a stop."""
    keep_alive: str = "30m"
    """How long an unused model stays loaded; `-1` is for ever."""
    sse_comment_s: float = 10.0
    """A waiting stream gets a comment this often, so that nothing between cuts it."""
    heartbeat_s: float = 90.0
    """A worker not heard of for this long is lost."""
    dispatch: Literal["shortest_queue", "lottery", "prefix_affinity"] = "shortest_queue"
    """How one of several workers with the same model is chosen; `prefix_affinity` sends a chat back to the worker whose
    cache holds how it begins, unless that one has much more to do than the others."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class WorkerSettings(msgspec.Struct, forbid_unknown_fields=True):
    """How workers that this machine starts run models."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `mps`."""
    dtype: str = "auto"
    """`auto`, `float32`, `float16` or `bfloat16`."""
    max_batch: int = 32
    """Completions that run at once in one worker."""
    max_waiting: int = 256
    """Requests that may wait in one worker."""
    kv_bytes: int = 0
    """Memory for the KV cache; 0 decides from what is free."""
    threads: int = 0
    """CPU threads for a worker; 0 decides from the cores."""
    heartbeat_s: float = 15.0
    """How often a worker reports; FastChat's controllers expect 45 or less."""


class ChatSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Defaults of `fcd chat` and the interface."""

    model: str = DEFAULT_MODEL
    """The model when none is named."""
    temperature: float | None = None
    """Not set leaves it to the model."""
    top_p: float | None = None
    """Not set leaves it to the model."""
    max_tokens: int = 0
    """0 leaves it to what the context holds."""
    system: str = ""
    """The system message; empty is none."""
    style: Literal["simple", "rich", "programmatic"] = "rich"
    """How answers look; `rich` is `simple` where there are no colours."""


class TuiSettings(msgspec.Struct, forbid_unknown_fields=True):
    theme: str = "dark"
    ascii: bool = False
    keys: dict[str, str] = {}
    """Action name to key, replacing the one that is built in."""


class ArenaSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Battles and the board."""

    pairing: Literal["uniform", "weighted", "fewest_votes", "most_informative"] = "uniform"
    """How the two models of a blind battle are drawn."""
    pools: dict[str, list[str]] = {}
    """Name of a pool to the models that it draws from."""
    weights: dict[str, float] = {}
    """How often `weighted` draws a model, relative to 1; 0 is never."""
    undo_s: float = 5.0
    """How long a vote can be taken back, unless the names were shown."""
    votes_per_hour: int = 0
    """Votes that one voter may give in an hour; 0 is no limit."""
    max_running: int = 16
    """Battles that may write at once."""
    max_turns: int = 50
    """Questions in one battle."""
    max_prompt_chars: int = 30_000
    """The longest question."""
    anchor: str = ""
    """The model that has `anchor_rating` on the board; empty puts the mean at 1000."""
    anchor_rating: float = 1000.0
    """What `anchor` is rated."""


class VllmSettings(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM, which lives in an environment of its own; with nothing set, that of `fcd engine install vllm`."""

    python: str = ""
    """The interpreter of an environment that has vLLM."""
    command: str = ""
    """What `serve MODEL ...` is added to, such as `vllm` or `docker run ... vllm`; goes before `python`."""
    env: dict[str, str] = {}
    """Environment variables for it."""
    stall_s: float = 60.0
    """With requests under way and no token for this long it is asked for one; without an answer it is started again."""
    sleep_ttl: str = "30m"
    """How long a model that was put to sleep keeps its RAM before it is unloaded; `0` lets no model sleep."""


class EnginesSettings(msgspec.Struct, forbid_unknown_fields=True):
    """Engines that are programs with an environment of their own."""

    vllm: VllmSettings = msgspec.field(default_factory=VllmSettings)


class ModelSettings(msgspec.Struct, forbid_unknown_fields=True):
    """One `[models.NAME]` table: a name of one's own for a model and how to load it."""

    path: str = ""
    """A folder or a repo; empty means that NAME itself is one."""
    engine: Literal["", "transformers", "vllm", "command"] = ""
    device: str = ""
    dtype: str = ""
    quantization: Literal["", "8bit", "4bit"] = ""
    num_gpus: int = 0
    gpus: str = ""
    max_gpu_memory: str = ""
    revision: str = ""
    conv_template: str = ""
    tokenizer: str = ""
    """A folder or repo whose tokenizer is taken instead of the model's own; for vLLM."""
    quantize_with: str = ""
    """vLLM's own name of a way to quantize, such as `awq` or `fp8`."""
    gpu_memory_utilization: float = 0.0
    """The share of each GPU's whole memory that vLLM takes; 0 leaves it to be worked out."""
    max_model_len: int = 0
    """The longest context that vLLM makes room for; 0 is the model's own."""
    trust_remote_code: bool = False
    """Let vLLM run the Python that the model's repo brings."""
    engine_args: list[str] = []
    """Words for vLLM's own command line, such as `["--enforce-eager"]`."""
    keep_alive: str = ""
    replicas: int = 1
    """How many workers it has while it is loaded, as far as memory allows."""
    command: str = ""
    """For `engine = "command"`: what starts an OpenAI-compatible server, such as `llama-server -m {model} --port
    {port}`; `{host}`, `{name}` and `{key}` are filled in too."""
    health: str = "/health"
    """Where that server says that it can answer."""
    env: dict[str, str] = {}
    """Environment variables for it; `{key}` is filled in here too, where others on the machine cannot read it."""
    stop_signal: str = "SIGTERM"
    """What asks it to end."""
    vision: bool | None = None
    """Whether its model sees images; left out, as far as the server says."""
    preload: bool = False
    """Load it when the daemon starts."""
    system: str = ""
    """The system message of chats that bring none. This and what follows makes the name a profile: other names of the
    same model, loaded the same way, share its worker and keep their own defaults."""
    temperature: float | None = None
    """For requests that leave it out, as are those below."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    """The longest answer to a request that sets no limit."""
    stop: list[str] = []
    """Texts that end an answer."""
    adapters: dict[str, str] = {}
    """LoRA adapters over this model, each a model of its own for requests: name -> folder, in PEFT's layout."""


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """All of config.toml."""

    daemon: DaemonSettings = msgspec.field(default_factory=DaemonSettings)
    worker: WorkerSettings = msgspec.field(default_factory=WorkerSettings)
    chat: ChatSettings = msgspec.field(default_factory=ChatSettings)
    tui: TuiSettings = msgspec.field(default_factory=TuiSettings)
    arena: ArenaSettings = msgspec.field(default_factory=ArenaSettings)
    engines: EnginesSettings = msgspec.field(default_factory=EnginesSettings)
    models: dict[str, ModelSettings] = {}
    aliases: dict[str, str] = {}


PROFILE_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_tokens": (1, 2**31 - 1),
}
"""The sampling defaults of a profile, with the values that requests may have."""

_NOT_OPENAI = ("top_k", "min_p", "repetition_penalty")
"""Those that OpenAI's own routes do not have."""

PROFILE_FIELDS = (*PROFILE_RANGES, "system", "stop")

SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "daemon": DaemonSettings,
    "worker": WorkerSettings,
    "chat": ChatSettings,
    "tui": TuiSettings,
    "arena": ArenaSettings,
    "engines.vllm": VllmSettings,
}
"""Tables with a fixed set of keys, each of which an environment variable can set."""

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
    return _convert(tree, str(config_file))


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


def write_setting(config_file: Path, name: str, value: str) -> Any:
    """Set `section.key` in the file, keeping the rest; returns the value as it was understood.

    Comments in the file are not kept: TOML writers drop them, and `fcd config edit` keeps them.
    """
    import tomli_w

    tree = read_config(config_file)
    section, _, key = name.rpartition(".")
    if name not in setting_names():
        raise UnknownSetting(f"There is no setting '{name}'.{_nearest(name, setting_names())}")
    parsed = _parse(SECTIONS[section], key, value, name)
    if parsed is None:
        _made(tree, section).pop(key, None)
    else:
        _made(tree, section)[key] = msgspec.to_builtins(parsed)
    check_tree(tree, config_file)
    _convert(tree, str(config_file))
    config_file.parent.mkdir(parents=True, exist_ok=True)
    temporary = config_file.with_suffix(".toml.new")
    temporary.write_text(tomli_w.dumps(tree), encoding="utf-8")
    temporary.replace(config_file)
    return parsed


def setting_names() -> list[str]:
    """Every `section.key` that has one value."""
    return [f"{section}.{field}" for section, struct in SECTIONS.items() for field in struct.__struct_fields__]


def is_profile(model: ModelSettings) -> bool:
    """Whether requests by this name have defaults of their own."""
    return any(getattr(model, name) not in (None, "", []) for name in PROFILE_FIELDS)


def profile_of(name: str, settings: Settings) -> ModelSettings | None:
    """The `[models.NAME]` table whose defaults a request by this name has; aliases and `@8bit` are seen through."""
    for _ in range(_MOST_ALIASES):
        if name in settings.models:
            return settings.models[name]
        plain = name.rpartition("@")[0] if name.endswith(("@8bit", "@4bit")) else name
        following = settings.aliases.get(name) or (plain if plain != name else None)
        if following is None:
            return None
        name = following
    return None


def get_setting(settings: Settings, name: str) -> Any:
    """The value of `section.key`.

    Raises:
        UnknownSetting: there is no such setting.
    """
    if name not in setting_names():
        raise UnknownSetting(f"There is no setting '{name}'.{_nearest(name, setting_names())}")
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


_HEADER = re.compile(r"^\s*\[+([^\]]+)\]")
_AT = re.compile(r" - at `\$\.(\w+(?:\.\w+)?)(\[\.\.\.\])?(?:\.(\w+))?")

_DURATION = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Seconds of `5m`, `30s`, `1h`, `90`; anything below zero is for ever (`inf`).

    Raises:
        ConfigError: not a duration.
    """
    match = _DURATION.match(text.strip())
    if match is None:
        raise ConfigError(f"'{text}' is not a duration: write 30s, 5m, 1h, a number of seconds, or -1 for ever.")
    value = float(match.group(1)) * _UNITS[match.group(2) or "s"]
    return float("inf") if value < 0 else value


_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*$")
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of `8GiB`, `800 MB`, `123`.

    Raises:
        ConfigError: not an amount of memory.
    """
    match = _SIZE.match(text)
    if match is None or match.group(2).upper() not in _SIZES:
        raise ConfigError(f"'{text}' is not an amount of memory: write 8GiB or 800MiB.")
    return int(float(match.group(1)) * _SIZES[match.group(2).upper()])


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


def _made(tree: dict[str, Any], section: str) -> dict[str, Any]:
    """A section's table, made where it is missing."""
    for part in section.split("."):
        tree = tree.setdefault(part, {})
    return tree


def _check_keys(table: Mapping[str, Any], struct: type[msgspec.Struct], prefix: str, config_file: Path) -> None:
    for key in table:
        if key not in struct.__struct_fields__:
            line = _line_of(config_file, key)
            where = f"{config_file}, line {line}" if line else str(config_file)
            raise ConfigError(f"{where}: unknown setting '{prefix}{key}'.{_nearest(key, struct.__struct_fields__)}")


def _nearest(word: str, words: Any) -> str:
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


def _convert(tree: Mapping[str, Any], where: str) -> Settings:
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
