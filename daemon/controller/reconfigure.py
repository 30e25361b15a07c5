"""What the controller does when config.toml has changed: models come, go and change; running requests always finish."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from daemon.controller.models import plain_name, same_launch
from daemon.scheduler import events as e
from daemon.supervisor.launch import LaunchSpec, worker_name
from fcd.errors import ApiError
from fcd.settings import PROFILE_FIELDS, Settings, is_profile, profile_of

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

log = logging.getLogger("fcd.controller")


class Reconfigure:
    """One change, from `before` to `now`."""

    def __init__(self, controller: Controller, before: Settings, now: Settings) -> None:
        self._controller = controller
        self._supervisor = controller.supervisor
        self._before = before
        self._now = now

    async def run(self, aliases: dict[str, str]) -> None:
        """`aliases`, names to the specs that serve them, is brought up to date in place."""
        stale = {target for name in self._changed_profiles() if (target := await self._target(name, aliases))}
        for spec in list(self._supervisor.specs.values()):
            if await self._renew(spec):
                stale.discard(spec.target)
        for spec in self._supervisor.specs.values():
            self._declare(spec)
            if spec.target in stale:
                self._restart(spec)
        aliases.clear()
        aliases.update({name: spec.name for spec in self._supervisor.specs.values() for name in spec.names})

    def added_preloads(self) -> list[str]:
        before = self._before.models
        return [
            name
            for name, model in self._now.models.items()
            if model.preload and not (name in before and before[name].preload)
        ]

    async def _renew(self, spec: LaunchSpec) -> bool:
        """Replace or withdraw a model that its table in config.toml now says otherwise; whether its workers know."""
        name = plain_name(spec.name)
        old, new = self._before.models.get(name), self._now.models.get(name)
        if old == new or spec.source != "config":
            return False
        try:
            fresh = await self._controller.catalog.find(spec.name, owner=True) if new is not None else None
        except ApiError as error:
            log.error("models.%s cannot be used any more: %s", name, error.message)
            fresh = None
        if fresh is None:
            del self._supervisor.specs[spec.name]
            self._supervisor.submit(e.ModelWithdrawn(spec.name))
            return True
        self._supervisor.specs[spec.name] = fresh
        # How many workers there are changes without starting any of them again.
        if same_launch(spec, msgspec.structs.replace(fresh, replicas=spec.replicas)):
            return False
        self._declare(fresh)
        self._restart(fresh)
        return True

    def _declare(self, spec: LaunchSpec) -> None:
        keep_alive = self._controller.catalog.keep_alive(spec.options.keep_alive)
        declared = e.ModelDeclared(spec.name, worker_name(spec.name), keep_alive, spec.needs, spec.replicas)
        self._supervisor.submit(declared)

    def _restart(self, spec: LaunchSpec) -> None:
        """Have its workers start again with what is in force now, each when its requests are done."""
        model = self._supervisor.state.models.get(spec.name)
        for name in list(model.workers) if model is not None else []:
            worker = self._supervisor.state.workers[name]
            if worker.local and worker.state in ("starting", "loading", "ready", "asleep"):
                log.info("worker %s starts again, for its settings have changed", name)
                self._supervisor.submit(e.RestartRequested(name))

    def _changed_profiles(self) -> list[str]:
        """Names whose requests now have other defaults."""
        names = {*self._before.models, *self._before.aliases, *self._now.models, *self._now.aliases}
        return sorted(name for name in names if _defaults(name, self._before) != _defaults(name, self._now))

    async def _target(self, name: str, aliases: dict[str, str]) -> str:
        """What is started for a name; empty when that cannot be found."""
        known = self._supervisor.specs.get(aliases.get(name, name))
        if known is not None:
            return known.target
        try:
            return (await self._controller.catalog.find(name, owner=True)).target
        except ApiError:
            return ""


def _defaults(name: str, settings: Settings) -> object:
    """Only what requests get: the way in which a model is loaded is not part of it."""
    found = profile_of(name, settings)
    return None if found is None or not is_profile(found) else [getattr(found, field) for field in PROFILE_FIELDS]
