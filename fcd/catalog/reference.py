"""What a model's name means: a built-in model, a name from config.toml, a folder, or a repo of the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from fcd.builtin import builtin_path, is_builtin
from fcd.catalog.hub import cached_snapshot
from fcd.errors import ApiError, invalid, model_not_found
from fcd.settings import ModelSettings, Settings
from fcd.wire.admin import ModelOptions

MAX_NAME = 256
MAX_PATH = 4096
_MAX_ALIASES = 8
_REPO = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}$", re.ASCII)
_BARE = re.compile(r"^[A-Za-z0-9_][\w.-]{0,95}$", re.ASCII)
_QUANTIZATIONS = ("8bit", "4bit")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model comes from."""

    name: str
    """What requests call it: an alias is followed, a quantization is part of the name (`guide@8bit`)."""
    kind: Literal["builtin", "folder", "cached", "repo", "command"]
    """`cached` is a repo that is complete on this machine; `repo` one that must be downloaded; `command` is what a
    server of its own loads: a file such as a .gguf, or whatever config.toml's command knows."""
    path: Path | None = None
    """The folder with the files, for all but `repo`."""
    repo: str = ""
    """For `cached` and `repo`."""
    configured: bool = False
    """Named in config.toml as `[models.NAME]`."""
    options: ModelOptions = msgspec.field(default_factory=ModelOptions)
    """From config.toml and the name's `@8bit`."""

    @property
    def quantization(self) -> str:
        return self.options.quantization

    @property
    def revision(self) -> str:
        return self.options.revision


def resolve(name: str, settings: Settings, *, allow_paths: bool = True, revision: str = "") -> Reference:
    """Find out what `name` means, without touching the network.

    `allow_paths=False` is for names that come from API clients: then only names reach a model, never folders.

    Raises:
        ApiError: 400 for what cannot be a model's name, 404 for a name that means nothing here.
    """
    check_name(name, allow_paths=allow_paths)
    plain, quantization = _split(name, settings)
    target = _follow_aliases(plain, settings)
    if target != plain:
        target, inner = _split(target, settings)
        quantization = quantization or inner
    options = ModelOptions(quantization=quantization, revision=revision)  # type: ignore[arg-type]
    if is_builtin(target):
        return Reference(name=_named(target, options), kind="builtin", path=builtin_path(target), options=options)
    base = adapter_base(target, settings)
    configured = settings.models.get(base or target)
    if configured is not None:
        return _from_config(base or target, configured, options)
    return _locate(target, settings, options, allow_paths)


def adapter_base(name: str, settings: Settings) -> str:
    """The `[models.NAME]` that brings an adapter of this name; empty when none does."""
    return next((base for base, model in settings.models.items() if name in model.adapters), "")


def check_name(name: str, *, allow_paths: bool) -> None:
    """Refuse what cannot be a model's name. Raises ApiError 400 that names `model`."""
    limit = MAX_PATH if allow_paths else MAX_NAME
    if not name.strip():
        raise invalid("model", "A model's name is missing. `fcd ls` lists models.")
    if len(name) > limit:
        raise invalid("model", f"A model's name has at most {limit} characters; this one has {len(name)}.")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise invalid("model", f"A model's name holds no control characters: {name!r:.80}.")
    if not allow_paths and (_looks_like_path(name) or ".." in name.split("/")):
        raise invalid("model", f"{name!r:.80} is a path. A request names a model; the machine's owner loads paths.")


def is_repo_name(name: str) -> bool:
    """Whether the hub could have a repo of this name (`owner/name`)."""
    return bool(_REPO.match(name)) and ".." not in name and "--" not in name


def _split(name: str, settings: Settings) -> tuple[str, str]:
    if name in settings.models or name in settings.aliases:
        return name, ""
    plain, at, suffix = name.rpartition("@")
    if at and plain and suffix in _QUANTIZATIONS:
        return plain, suffix
    return name, ""


def _follow_aliases(name: str, settings: Settings) -> str:
    seen = [name]
    while name in settings.aliases and not is_builtin(name):
        name = settings.aliases[name]
        if name in seen or len(seen) > _MAX_ALIASES:
            raise invalid("model", f"The alias '{seen[0]}' leads in a circle: {' -> '.join([*seen, name])}.")
        seen.append(name)
    return name


def _from_config(name: str, model: ModelSettings, options: ModelOptions) -> Reference:
    merged = ModelOptions(
        engine=model.engine,
        device=model.device,
        dtype=model.dtype,
        quantization=options.quantization or model.quantization,
        num_gpus=model.num_gpus,
        gpus=model.gpus,
        max_gpu_memory=model.max_gpu_memory,
        revision=options.revision or model.revision,
        conv_template=model.conv_template,
        tokenizer=model.tokenizer,
        quantize_with=model.quantize_with,
        gpu_memory_utilization=model.gpu_memory_utilization,
        max_model_len=model.max_model_len,
        trust_remote_code=model.trust_remote_code,
        engine_args=list(model.engine_args),
        keep_alive=model.keep_alive,
        lora_modules={adapter: str(Path(where).expanduser().absolute()) for adapter, where in model.adapters.items()},
    )
    shown = f"{name}@{options.quantization}" if options.quantization else name
    where = model.path or name
    if model.engine == "command" or model.command:
        return _of_command(name, model, merged)
    if is_builtin(where):
        path = builtin_path(where)
        return Reference(name=shown, kind="builtin", path=path, configured=True, options=merged)
    folder = Path(where).expanduser()
    if _looks_like_path(where) or _is_model_folder(folder):
        _check_folder(folder, where)
        return Reference(name=shown, kind="folder", path=folder.absolute(), configured=True, options=merged)
    found = _repo(where, merged, shown)
    if found is None:
        raise ApiError(
            404,
            f"models.{name}.path in config.toml is '{where}': neither a folder here nor a repo like owner/name.",
            code="model_not_found",
            param="model",
        )
    return msgspec.structs.replace(found, configured=True)


def _of_command(name: str, model: ModelSettings, options: ModelOptions) -> Reference:
    """Only the command knows what its model is; a path that exists is told as one."""
    if model.engine not in ("", "command"):
        raise invalid("model", f"models.{name} has a command, which the engine '{model.engine}' has no use for.")
    path = Path(model.path).expanduser() if model.path else None
    if path is not None and not path.exists() and (_looks_like_path(model.path) or is_gguf(path)):
        message = f"models.{name}.path is {path}, which does not exist."
        raise ApiError(404, message, code="model_not_found", param="model")
    found = path.absolute() if path is not None and path.exists() else None
    options = msgspec.structs.replace(options, engine="command")
    return Reference(name=name, kind="command", path=found, repo="", configured=True, options=options)


def is_gguf(path: Path) -> bool:
    """A file in llama.cpp's format, by its name."""
    return path.suffix.lower() == ".gguf"


def _locate(name: str, settings: Settings, options: ModelOptions, allow_paths: bool) -> Reference:
    if allow_paths:
        folder = Path(name).expanduser()
        if is_gguf(folder) and folder.is_file():
            options = msgspec.structs.replace(options, engine="command")
            return Reference(name=folder.stem, kind="command", path=folder.absolute(), options=options)
        if _looks_like_path(name) or _is_model_folder(folder):
            _check_folder(folder, name)
            path = folder.absolute()
            return Reference(name=_named(path.resolve().name, options), kind="folder", path=path, options=options)
    found = _repo(name, options, _named(name, options))
    if found is None:
        from fcd.catalog.listing import near_names

        asked = _named(name, options)
        raise model_not_found(asked if len(asked) <= 80 else asked[:77] + "...", near_names(name, settings))
    return found


def _repo(name: str, options: ModelOptions, shown: str) -> Reference | None:
    if not is_repo_name(name) and not _BARE.match(name):
        return None
    snapshot = cached_snapshot(name, options.revision)
    if snapshot is not None:
        return Reference(name=shown, kind="cached", path=snapshot, repo=name, options=options)
    if is_repo_name(name):
        return Reference(name=shown, kind="repo", repo=name, options=options)
    return None


def _named(name: str, options: ModelOptions) -> str:
    return f"{name}@{options.quantization}" if options.quantization else name


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith(("/", "./", "../", "~", "\\")) or name in (".", "..") or bool(re.match(r"^[A-Za-z]:\\", name))
    )


def _is_model_folder(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _check_folder(folder: Path, name: str) -> None:
    if folder.is_file():
        raise invalid("model", f"{name} is a file. A model is a folder with config.json, weights and a tokenizer.")
    if not folder.is_dir():
        raise ApiError(404, f"There is no folder {name}.", code="model_not_found", param="model")
    if not _is_model_folder(folder):
        if (folder / "adapter_config.json").is_file():
            raise invalid("model", f"{name} holds an adapter (adapter_config.json), not a whole model.")
        raise invalid(
            "model",
            f"{name} has no config.json, so it is no model in Hugging Face's layout."
            " Give the folder that holds config.json and the .safetensors files.",
        )
    if not os.access(folder / "config.json", os.R_OK):
        raise invalid("model", f"{name}/config.json cannot be read: permission denied.")
