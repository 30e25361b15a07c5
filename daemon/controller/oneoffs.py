"""Models that were loaded without being configured, built in or downloaded: by a folder's path, or with flags.

They are known for as long as they are of use: until they are unloaded, or, when they failed, were refused or rest, for
a bounded time.
"""

from __future__ import annotations

from collections.abc import Callable

from daemon.scheduler import events as e
from daemon.scheduler.state import Model, Worker
from daemon.supervisor.launch import LaunchSpec
from daemon.supervisor.supervisor import Supervisor

KEPT_S = 1800.0
"""How long a one-off that does not run is remembered: one that failed with its reason, one that rests to come back."""

_IN_USE = ("starting", "loading", "ready", "asleep", "stopping")


class OneOffs:
    """What becomes of them; models that are listed anyway are left alone but for what they were last loaded with."""

    def __init__(self, supervisor: Supervisor, is_listed: Callable[[str], bool], aliases: dict[str, str]) -> None:
        self.kept_s = KEPT_S
        self._supervisor = supervisor
        self._is_listed = is_listed
        self._aliases = aliases
        self._leaving: set[str] = set()
        self._worked: set[str] = set()
        self._unused_since: dict[str, float] = {}

    def leaves(self, model: str) -> None:
        """It was unloaded, or its worker stopped, by hand: forget it once its last worker is gone."""
        self._leaving.add(model)
        self.gone()

    def wanted(self, model: str) -> None:
        """A load was asked for: what was meant to be forgotten stays."""
        self._leaving.discard(model)
        self._unused_since.pop(model, None)

    def works(self, model: str) -> None:
        """A worker of it was ready: it would be again, for a request that comes while it rests."""
        self._worked.add(model)

    def gone(self) -> None:
        """A worker left."""
        for name in list(self._leaving):
            model = self._supervisor.state.models.get(name)
            local = [] if model is None else self._local(model)
            if model is None or not (local or model.waiting or model.wanted):
                self._forget(name)
            elif not local:
                self._leaving.discard(name)  # somebody asked for it meanwhile

    def serves(self, spec: LaunchSpec) -> bool:
        """Whether a request by its name would be served, as far as anybody can tell."""
        state = self._supervisor.state
        model = state.models.get(spec.name)
        if model is None:
            return False
        states = [worker.state for worker in self._local(model)]
        if any(each in _IN_USE for each in states):
            return True
        return spec.name in self._worked and "failed" not in states

    def has_failed(self, name: str) -> bool:
        """Whether it is a one-off whose loads all failed, and that nobody waits for: see `give_up`."""
        model = self._supervisor.state.models.get(name)
        if self._is_listed(name) or name not in self._supervisor.specs or model is None:
            return False
        local = self._local(model)
        if not local or len(local) < len(model.workers) or model.waiting or model.wanted:
            return False
        return all(worker.state == "failed" for worker in local)

    def give_up(self, name: str) -> None:
        """Forget one that `has_failed`: what it was called is free."""
        for worker in self._local(self._supervisor.state.models[name]):
            self._supervisor.submit(e.StopRequested(worker.name))
        self.leaves(name)

    def tidy(self) -> None:
        """Forget those that have been of no use for too long."""
        state, now = self._supervisor.state, self._supervisor.now()
        for name in list(self._supervisor.specs):
            model = state.models.get(name)
            if self._is_listed(name) or model is None:
                continue
            local = self._local(model)
            if model.waiting or model.wanted or any(worker.state != "failed" for worker in local):
                self._unused_since.pop(name, None)
            elif now - self._unused_since.setdefault(name, now) >= self.kept_s:
                self._leaving.add(name)
                for worker in local:
                    self._supervisor.submit(e.StopRequested(worker.name))
        self.gone()

    def _local(self, model: Model) -> list[Worker]:
        workers = (self._supervisor.state.workers[name] for name in model.workers)
        return [worker for worker in workers if worker.local]

    def _forget(self, name: str) -> None:
        self._leaving.discard(name)
        self._worked.discard(name)
        self._unused_since.pop(name, None)
        spec = self._supervisor.specs.pop(name, None)
        self._supervisor.refusals.pop(name, None)
        if spec is None:
            return
        for alias in [alias for alias, target in self._aliases.items() if target == name]:
            del self._aliases[alias]
        self._supervisor.submit(e.ModelWithdrawn(name))
