"""What watchers of the daemon hear of workers: their state at once, their numbers now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fcd.wire.admin import DaemonEvent

if TYPE_CHECKING:
    from daemon.controller.controller import Controller

_CHANGES_S = 0.2
"""Watchers hear of a worker's numbers at most this often; of its state, at once."""


class Announcer:
    """Told of every change, it tells what is worth telling."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._shown: dict[str, tuple[object, object]] = {}
        self._dirty: set[str] = set()
        self._flush: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._flush is not None:
            self._flush.cancel()

    def changed(self, name: str) -> None:
        if not name:
            self._controller.hub.publish(DaemonEvent("models"))
            return
        worker = self._controller.supervisor.state.workers.get(name)
        if worker is None and name not in self._controller.placements:
            return
        placed = self._controller.placements.shown(name, None) if name in self._controller.placements else None
        state = (
            worker is not None and (worker.state, worker.healthy),
            placed is not None and (placed.state, placed.error),
        )
        if self._shown.get(name) != state:
            self._shown[name] = state
            if worker is not None and worker.local and worker.serving:
                for model in worker.models:
                    self._controller.one_offs.works(model)
            self._publish(name)
            self._controller.hub.publish(DaemonEvent("models"))
            return
        self._dirty.add(name)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(_CHANGES_S, self._publish_dirty)

    def _publish_dirty(self) -> None:
        self._flush = None
        names, self._dirty = self._dirty, set()
        for name in names:
            self._publish(name)

    def _publish(self, name: str) -> None:
        info = self._controller.worker(name)
        if info is not None:
            self._controller.hub.publish(DaemonEvent("worker", worker=info, name=name))

    def gone(self, name: str) -> None:
        self._shown.pop(name, None)
        self._dirty.discard(name)
        self._controller.one_offs.gone()
        self._controller.hub.publish(DaemonEvent("worker_gone", name=name))
        self._controller.hub.publish(DaemonEvent("models"))
