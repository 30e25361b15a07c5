"""What FastChat's clients ask of a controller, answered from the registry."""

from __future__ import annotations

from collections.abc import Callable, Collection

from daemon.controller.registry import Record, Registry
from daemon.scheduler import events as e
from daemon.scheduler.requests import pick
from daemon.supervisor.supervisor import Supervisor
from fcd.wire.controller import WorkerStatus


class FastChatView:
    """The registry in FastChat's terms."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        canonical: Callable[[str], str],
        configured: Callable[[], Collection[str]],
    ) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._canonical = canonical
        self._configured = configured

    def names(self, *, multimodal: bool | None = None) -> list[str]:
        """Models that a registered worker serves; those of multimodal workers, or of the others.

        With the others stand the models of config.toml: asking for the address of one loads it.
        """
        records = [each for each in self._present() if multimodal is None or each.multimodal == multimodal]
        served = {name for record in records for name in record.status.model_names}
        return sorted(served if multimodal else served.union(self._configured()))

    def address(self, model: str) -> str:
        """The address of a worker, empty when there is none; the client goes there by itself."""
        name = pick(self._supervisor.state, self._canonical(model))
        record = self._registry.get(name) if name else None
        if record is None:
            return ""
        self._supervisor.submit(e.SentElsewhere(record.name))
        return record.url

    def status(self) -> WorkerStatus:
        """All workers as if they were one: the union of names, the sums of speed and queue length."""
        records = self._present()
        workers = self._supervisor.state.workers
        queue = sum(len(workers[each.name].leases) + workers[each.name].elsewhere for each in records)
        speed = sum(record.status.speed for record in records)
        served = sorted({name for record in records for name in record.status.model_names})
        return WorkerStatus(served, speed, queue)

    def _present(self) -> list[Record]:
        workers = self._supervisor.state.workers
        return [
            record
            for record in self._registry.all()
            if record.name in workers and workers[record.name].state in ("loading", "ready", "asleep")
        ]
