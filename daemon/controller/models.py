"""Which models can be started here, under which names, and with which options."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

import msgspec

from daemon.controller.sizes import limits_nothing, needs_of
from daemon.supervisor.launch import LaunchSpec, Source
from fcd.builtin import NAMES, builtin_path, is_builtin
from fcd.catalog import Reference, list_models, near_names, read_facts, resolve
from fcd.errors import ConfigError, invalid, model_not_found
from fcd.settings import Settings, WorkerSettings, parse_duration
from fcd.wire.admin import ModelInfo, ModelOptions

_LISTING_FRESH_S = 2.0


class Models:
    """Turns names into launch specs."""

    def __init__(
        self, settings: Settings, has_gpu: Callable[[], bool], totals: Callable[[], Mapping[str, int]] = dict
    ) -> None:
        self._settings = settings
        self._has_gpu = has_gpu
        self._totals = totals
        self._listing: list[ModelInfo] = []
        self._listed_at = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None

    # Names

    async def find(self, name: str, *, owner: bool, options: ModelOptions | None = None) -> LaunchSpec:
        """What to start for a name. `owner`: paths may be named, and repos that would have to be downloaded.

        Raises:
            ApiError: 400 or 404, with what was wrong or the names that come close.
        """
        given = options or ModelOptions()
        return await asyncio.to_thread(self._find, name, owner, given)

    @property
    def worker_settings(self) -> WorkerSettings:
        return self._settings.worker

    def look_up(self, name: str, given: ModelOptions) -> tuple[Reference, LaunchSpec]:
        """Where the model is, and what would be started; for the machine's owner. Reads files, so call it in a thread.

        Raises:
            ApiError: 400 or 404.
        """
        reference = resolve(name, self._settings, revision=given.revision)
        return reference, self._find(name, True, given)

    def _find(self, name: str, owner: bool, given: ModelOptions) -> LaunchSpec:
        reference = resolve(name, self._settings, allow_paths=owner, revision=given.revision)
        if reference.kind == "repo" and not (owner or reference.configured):
            raise model_not_found(name, near_names(name, self._settings))
        if given.revision and not reference.repo:
            raise invalid("revision", f"'revision' chooses among a hub repo's; {reference.name} comes from no repo.")
        options = merge(reference.options, given)
        shown = reference.name
        if options.quantization and options.quantization != reference.options.quantization:
            shown = f"{reference.name.partition('@')[0]}@{options.quantization}"
        own = [each for each in options.model_names if each not in options.lora_modules] or [shown]
        names = [*own, *options.lora_modules]
        needs = needs_of(reference, options, self._settings.worker, has_gpu=self._has_gpu(), totals=self._totals())
        unused_limit = ""
        if limits_nothing(options, self._settings.worker, has_gpu=self._has_gpu()):
            # Loaded with it or without, it is the same: no second copy of it.
            unused_limit = reference.options.max_gpu_memory
            options = msgspec.structs.replace(options, max_gpu_memory="")
        size = needs.gpu if needs.allow_gpu else needs.cpu
        return LaunchSpec(
            name=names[0],
            names=tuple(names[1:]),
            target=self._target(reference, options),
            options=msgspec.structs.replace(options, model_names=[]),
            source=_source(reference),
            path=str(reference.path or ""),
            context_length=read_facts(reference.path).context_length if reference.path else 0,
            estimate=size,
            needs=needs,
            replicas=self._replicas(reference),
            unused_limit=unused_limit,
        )

    def is_reserved(self, name: str) -> bool:
        """Whether a name belongs to a model of this machine, so that nobody else may answer to it."""
        plain = plain_name(name)
        known = (self._settings.models, self._settings.aliases, {model.name for model in self._listing})
        return any(is_builtin(each) or any(each in names for names in known) for each in (name, plain))

    def keep_alive(self, text: str) -> float:
        """Seconds that a model stays loaded; the setting when `text` is empty. Raises ApiError 400."""
        try:
            return parse_duration(text or self._settings.daemon.keep_alive)
        except ConfigError as error:
            raise invalid("keep_alive", error.message) from None

    def _target(self, reference: Reference, options: ModelOptions) -> str:
        """What the worker is given: a name where only config.toml has all that it needs."""
        plain = plain_name(reference.name)
        configured = self._settings.models.get(plain) if reference.configured else None
        return plain if configured is not None and configured.env and options.engine == "vllm" else _target(reference)

    def _replicas(self, reference: Reference) -> int:
        configured = self._settings.models.get(plain_name(reference.name)) if reference.configured else None
        return configured.replicas if configured is not None else 1

    # Listing

    def is_listed(self, name: str) -> bool:
        """Whether it is built in, configured or downloaded."""
        return any(model.name == name for model in self._listing)

    def listing(self) -> list[ModelInfo]:
        """The models of this machine, as last looked up; looks again in the background when that was a while ago."""
        if time.monotonic() - self._listed_at > _LISTING_FRESH_S and self._refreshing is None:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_in_background())
        return [msgspec.structs.replace(model) for model in self._listing]

    async def refresh(self) -> None:
        self._listing = await asyncio.to_thread(list_models, self._settings)
        self._listed_at = time.monotonic()

    async def _refresh_in_background(self) -> None:
        try:
            await self.refresh()
        finally:
            self._refreshing = None


def plain_name(name: str) -> str:
    """A model's name without the quantization that it may ask for."""
    return name.rpartition("@")[0] if name.endswith(("@8bit", "@4bit")) else name


def unique_name(spec: LaunchSpec, taken: Callable[[str], bool]) -> LaunchSpec:
    """The spec under a name that is free: its own, or with a number behind it."""
    name, number = spec.name, 1
    while taken(name):
        number += 1
        name = f"{spec.name}-{number}"
    return msgspec.structs.replace(spec, name=name)


def same_launch(one: LaunchSpec, other: LaunchSpec) -> bool:
    """Whether two specs would start the same thing."""
    same = one.target == other.target and one.replicas == other.replicas
    return same and _comparable(one.options) == _comparable(other.options)


def asks_for_nothing_special(options: ModelOptions) -> bool:
    return _comparable(options) == ModelOptions() and not options.model_names


def _comparable(options: ModelOptions) -> ModelOptions:
    return msgspec.structs.replace(options, keep_alive="", model_names=[])


def merge(base: ModelOptions, over: ModelOptions) -> ModelOptions:
    """`base` with everything that `over` says."""
    said = {field: value for field in over.__struct_fields__ if (value := getattr(over, field))}
    said["lora_modules"] = {**base.lora_modules, **over.lora_modules}
    return msgspec.structs.replace(base, **said)


def check_names(names: Collection[str], *, most: int) -> None:
    """Raises ApiError 400 for what cannot be names of models."""
    if not names or len(names) > most:
        raise invalid("model_names", f"A worker serves between 1 and {most} model names; these are {len(names)}.")
    for name in names:
        if not name or len(name) > 256 or not name.isprintable() or name != name.strip() or "," in name:
            raise invalid("model_names", f"{name[:80]!r} cannot be a model's name.")


def _target(reference: Reference) -> str:
    if reference.kind == "command" and reference.configured:
        return reference.name
    if reference.kind == "builtin":
        return next((name for name in NAMES if builtin_path(name) == reference.path), reference.name)
    return reference.repo or str(reference.path)


def _source(reference: Reference) -> Source:
    if reference.configured:
        return "config"
    return {"builtin": "builtin", "folder": "path", "command": "path"}.get(reference.kind, "cache")  # type: ignore[return-value]
