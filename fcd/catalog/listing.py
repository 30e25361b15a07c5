"""Every model that a name here reaches."""

from __future__ import annotations

import difflib
from pathlib import Path

import msgspec

from fcd.builtin import DEFAULT, NAMES, builtin_path, describe
from fcd.catalog.facts import read_facts
from fcd.catalog.hub import cached_repos, folder_size
from fcd.catalog.reference import Reference, resolve
from fcd.errors import ApiError
from fcd.settings import Settings
from fcd.wire.admin import ModelInfo


def list_models(settings: Settings, *, cache: Path | None = None) -> list[ModelInfo]:
    """Built-in models, those of config.toml (aliases too), then what the hub's cache holds; the default is marked."""
    listed = [*_builtin(), *_configured(settings), *_cached(cache)]
    names = [model.name for model in listed]
    default = settings.chat.model if settings.chat.model in names else DEFAULT
    for model in listed:
        model.default = model.name == default
    return listed


def near_names(name: str, settings: Settings, *, limit: int = 3) -> list[str]:
    """Known names that come close to one that is not known."""
    adapters = [adapter for model in settings.models.values() for adapter in model.adapters]
    names = [*NAMES, *settings.models, *adapters, *settings.aliases, *(repo.repo for repo in cached_repos())]
    lowered = {known.lower(): known for known in names}
    lowered |= {known.rpartition("/")[2].lower(): known for known in names}
    close = difflib.get_close_matches(name.lower()[:256], list(lowered), n=limit, cutoff=0.6)
    return list(dict.fromkeys(lowered[match] for match in close))


def _builtin() -> list[ModelInfo]:
    models = []
    for name in NAMES:
        path = builtin_path(name)
        size = folder_size(path) if path.is_dir() else 0
        info = ModelInfo(name, "builtin", path=str(path), size_bytes=size, description=describe(name))
        info.context_length = read_facts(path).context_length
        models.append(info)
    return models


def _configured(settings: Settings) -> list[ModelInfo]:
    models = [_of_config(name, settings.models[name].path or name, settings) for name in settings.models]
    aliases = [_of_config(name, target, settings, alias=True) for name, target in settings.aliases.items()]
    adapters = [
        msgspec.structs.replace(info, name=adapter, description=f"adapter over {info.name}", parent=info.name)
        for info in models
        for adapter in settings.models[info.name].adapters
    ]
    return [*models, *adapters, *aliases]


def _of_config(name: str, target: str, settings: Settings, *, alias: bool = False) -> ModelInfo:
    info = ModelInfo(name, "config", description=f"{'alias of' if alias else 'is'} {target}" if target != name else "")
    try:
        reference: Reference = resolve(name, settings)
    except ApiError as error:
        info.description = error.message
        info.state = "failed"
        return info
    if reference.path is None:
        info.description += ("; " if info.description else "") + "not downloaded yet"
        return info
    info.path = str(reference.path)
    info.size_bytes = folder_size(reference.path) if reference.path.is_dir() else 0
    info.context_length = read_facts(reference.path).context_length
    return info


def _cached(cache: Path | None) -> list[ModelInfo]:
    return [
        ModelInfo(
            found.repo,
            "cache",
            path=str(found.path),
            size_bytes=found.size_bytes,
            context_length=read_facts(found.path).context_length,
        )
        for found in cached_repos(cache)
    ]
