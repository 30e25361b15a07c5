"""Which models the scheduler knows, and under which names: what was asked for becomes one of them, or a new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from daemon.controller.models import Models, asks_for_nothing_special, same_launch, unique_name
from daemon.scheduler import events as e
from daemon.supervisor.launch import LaunchSpec, worker_name
from daemon.supervisor.supervisor import Supervisor
from fcd.builtin import is_builtin
from fcd.errors import ApiError
from fcd.settings import Settings
from fcd.wire.admin import LoadRequest, ModelOptions

_MOST_SPECS = 1024


class Specs:
    """The supervisor keeps the specs; `aliases` are other names of theirs."""

    def __init__(self, supervisor: Supervisor, catalog: Models, settings: Settings) -> None:
        self.aliases: dict[str, str] = {}
        self.has_failed: Callable[[str], bool] = lambda name: False
        """Whether a model only failed, so that one that wants what it was called may have it."""
        self.give_up: Callable[[str], None] = lambda name: None
        """Forgets such a model."""
        self._supervisor = supervisor
        self._catalog = catalog
        self._settings = settings

    async def known(self, model: str, *, owner: bool, options: ModelOptions | None = None) -> LaunchSpec:
        """The spec of a model that can be started here, made known to the scheduler."""
        given = options or ModelOptions()
        plain = asks_for_nothing_special(given)
        name = self.aliases.get(model, model)
        if plain and name in self._supervisor.specs:
            return self._supervisor.specs[name]
        if given.keep_alive:
            self._catalog.keep_alive(given.keep_alive)
        spec = await self._catalog.find(model, owner=owner, options=given)
        return self._declare(model, spec, plain=plain, named=bool(given.model_names))

    async def for_cluster(self, request: LoadRequest) -> LaunchSpec:
        """What nodes are to start. A folder need not be on this machine, if it is on theirs."""
        path = Path(request.model)
        if path.is_absolute() and not path.exists():
            names = request.options.model_names or [path.name]
            options = msgspec.structs.replace(request.options, model_names=[])
            return LaunchSpec(names[0], str(path), tuple(names[1:]), options, path=str(path))
        return await self._catalog.find(request.model, owner=True, options=request.options)

    def _declare(self, asked: str, spec: LaunchSpec, *, plain: bool, named: bool) -> LaunchSpec:
        # A folder's path says nothing of how it is to be loaded, so what is loaded of it will do. A name is exact.
        running = self._running(spec) if plain and spec.source == "path" else None
        if running is not None:
            return running
        for known in self._supervisor.specs.values():
            if same_launch(known, spec) and (not named or known.all_names == spec.all_names):
                return self._remember(asked, known, plain)
        known_spec = self._supervisor.specs.get(spec.name)
        if plain and known_spec is not None and known_spec.target == spec.target:
            return self._remember(asked, known_spec, plain)
        leaving = self._check_adapters(spec)
        if named:
            leaving |= self._check_free(spec)
        else:
            spec = unique_name(
                spec, lambda name: self._is_taken_for(spec, name) and self.aliases.get(name, name) not in leaving
            )
        if len(self._supervisor.specs) - len(leaving) >= _MOST_SPECS:
            raise ApiError(429, f"{_MOST_SPECS} models are known here, as many as may be.", code="overloaded")
        for name in leaving:  # not before all is asked: a load that is refused changes nothing
            self.give_up(name)
        self.enter(spec)
        return self._remember(asked, spec, plain)

    def _running(self, spec: LaunchSpec) -> LaunchSpec | None:
        """What runs, or loads, of the same files here: as the spec says if possible."""
        state, found = self._supervisor.state, []
        for known in self._supervisor.specs.values():
            model = state.models.get(known.name)
            if known.target == spec.target and model is not None:
                workers = (state.workers[name] for name in model.workers)
                if any(each.local and each.state in ("starting", "loading", "ready", "asleep") for each in workers):
                    found.append(known)
        return min(found, key=lambda known: not same_launch(known, spec), default=None)

    def enter(self, spec: LaunchSpec) -> None:
        self._supervisor.specs[spec.name] = spec
        for name in spec.names:
            self.aliases[name] = spec.name
        keep_alive = self._catalog.keep_alive(spec.options.keep_alive)
        declared = e.ModelDeclared(spec.name, worker_name(spec.name), keep_alive, spec.needs, spec.replicas)
        self._supervisor.submit(declared)

    def _remember(self, asked: str, spec: LaunchSpec, plain: bool) -> LaunchSpec:
        """An alias need not be looked up again. Paths are: they mean something to the machine's owner alone."""
        settings = self._settings
        configured = asked in settings.aliases or asked in settings.models or is_builtin(asked)
        if plain and asked != spec.name and "/" not in asked and configured:
            self.aliases[asked] = spec.name
        return spec

    def _is_taken_for(self, spec: LaunchSpec, name: str) -> bool:
        if name in self._supervisor.specs or name in self._supervisor.state.models or name in self.aliases:
            return True
        return spec.source == "path" and self._catalog.is_reserved(name)

    def _check_free(self, spec: LaunchSpec) -> set[str]:
        """The failed models that have its names now.

        Raises:
            ApiError: 409, another model has one.
        """
        leaving = set[str]()
        for name in spec.all_names:
            if self._is_taken_for(spec, name) and not self._is_left_by_failed(name, leaving):
                raise ApiError(
                    409, f"The name '{name}' is taken by another model.", code="name_taken", param="model_names"
                )
        return leaving

    def _check_adapters(self, spec: LaunchSpec) -> set[str]:
        """The failed models that have its adapters' names now.

        Raises:
            ApiError: 409, something else that is known here has one.
        """
        leaving = set[str]()
        for name in spec.options.lora_modules:
            known = name in self._supervisor.specs or name in self._supervisor.state.models or name in self.aliases
            if known and not self._is_left_by_failed(name, leaving):
                raise ApiError(
                    409,
                    f"The adapter's name '{name}' is taken. Give it another, or unload what has it: fcd unload {name}",
                    code="name_taken",
                    param="lora_modules",
                )
        return leaving

    def _is_left_by_failed(self, name: str, leaving: set[str]) -> bool:
        """A load that failed, for a mistyped folder say, must not keep its names from the next try."""
        known = self.aliases.get(name, name)
        if not self.has_failed(known):
            return False
        leaving.add(known)
        return True

    def is_reserved(self, name: str) -> bool:
        return name in self._supervisor.specs or name in self.aliases or self._catalog.is_reserved(name)
