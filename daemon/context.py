"""What the daemon's parts share: made once in lifecycle.py and handed to each of them. There are no globals."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from daemon.dispatch import Dispatcher
from fcd.paths import Paths
from fcd.settings import Settings
from fcd.wire.admin import WorkerInfo
from fcd.wire.devices import DeviceList

if TYPE_CHECKING:
    from daemon.gateway.active import ActiveRequests
    from daemon.metrics import Metrics
    from daemon.security import Security
    from daemon.store.store import Store


class ControllerPort(Dispatcher, Protocol):
    """What the daemon needs of its controller."""

    async def start(self) -> None:
        """Begin: returns when workers may register; models that are to be preloaded may still be loading."""
        ...

    async def close(self) -> None:
        """Stop every local worker and wait until they are gone."""
        ...

    def workers(self) -> list[WorkerInfo]: ...

    async def devices(self) -> DeviceList:
        """What each device of this machine is doing."""
        ...

    def not_ready(self) -> list[str]:
        """Why it cannot take work; empty when it can."""
        ...

    async def reconfigure(self, before: Settings) -> None:
        """Act on settings that have changed in place; `before` is how they were."""
        ...

    def announce_config(self, message: str) -> None:
        """Tell watchers what became of a changed config.toml."""
        ...

    def blueprints(self, context: DaemonContext) -> Sequence[Any]:
        """Its Sanic blueprints: FastChat's controller routes, /api/workers, /api/models and /api/events."""
        ...


@dataclass
class DaemonContext:
    """The daemon's shared parts.

    `controller` is set right after construction, because it is built from the context. `url` is known once the
    listening socket is bound, which is before the controller starts.
    """

    settings: Settings
    paths: Paths
    store: Store
    security: Security
    metrics: Metrics
    active: ActiveRequests
    url: str = ""
    clock: Callable[[], float] = time.time
    """Unix time in seconds."""
    started_at: float = field(default_factory=time.time)
    draining: bool = False
    """Set at shutdown: new work is refused with 503 while running requests finish."""
    config_problem: str = ""
    """Why config.toml as it is now is not in force; empty when it is."""
    config_waiting: list[str] = field(default_factory=list)
    """Settings that config.toml has changed and that need a restart."""
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """Called when the server closes, while the store is still open."""
    controller: ControllerPort = field(init=False)

    def not_ready(self) -> list[str]:
        """Why the daemon cannot take work; empty when it can."""
        if self.draining:
            return ["The daemon is shutting down."]
        return self.controller.not_ready()

    def warnings(self) -> list[str]:
        """What is wrong though the daemon can take work."""
        found = [self.config_problem] if self.config_problem else []
        if self.config_waiting:
            names = " and ".join(self.config_waiting)
            found.append(f"config.toml has a new {names}, which takes effect at `fcd daemon restart`.")
        return found
