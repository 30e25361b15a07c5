"""What the scheduler knows. Only `decide` changes it; times are seconds of whatever clock the caller uses."""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from typing import Literal

import msgspec

from daemon.scheduler.affinity import Affinity
from daemon.scheduler.config import Config
from daemon.scheduler.events import Effect
from daemon.scheduler.placement import Claims, Needs
from fcd.wire.admin import WorkerState

After = Literal["", "remove", "restart", "death"]
"""What follows when a stopping worker's process is gone."""


class Waiting(msgspec.Struct):
    """A request in a model's queue."""

    id: int
    exclude: dict[str, int]
    """Worker to the epoch in which it failed; a later epoch may be tried again."""
    since: float
    keep_alive: float | None = None
    prefixes: tuple[int, ...] = ()
    ends_here: bool = False
    """It goes to no worker that passes on."""


class Model(msgspec.Struct):
    name: str
    worker: str = ""
    loadable: bool = False
    declared: Needs = Needs()
    needs: Needs = Needs()
    """As declared, or more once it has run out of memory."""
    replicas: int = 1
    target: int = 0
    """How many local workers it is to have now: 0 while it is not loaded."""
    lacking: str = ""
    """Why it has fewer."""
    deaths: int = 0
    """Deaths in a row of a worker that found its place taken: the next one goes on counting."""
    affinity: Affinity = msgspec.field(default_factory=Affinity)
    keep_alive: float = float("inf")
    next_keep_alive: float | None = None
    """What the load that was asked for wants instead."""
    waiting: OrderedDict[int, Waiting] = msgspec.field(default_factory=OrderedDict)
    """In order of arrival. A plain dict is slow at giving up its first item again and again."""
    workers: dict[str, None] = msgspec.field(default_factory=dict)
    wanted: bool = False
    """A load was asked for and has not begun."""


class Worker(msgspec.Struct):
    name: str
    models: tuple[str, ...]
    local: bool
    state: WorkerState
    passes_on: bool = False
    """It is, or may be, a daemon that sends requests to workers of its own."""
    keep_alive: float = float("inf")
    claims: Claims = msgspec.field(default_factory=dict)
    """What it takes, or is about to take, of each device."""
    unread: bool = False
    """Memory was not read since it began to load or to wake: nothing that is missing can be its doing."""
    kv: int = 0
    """Bytes of KV cache that it was granted beyond its claims."""
    sleeps: bool = False
    """It can be put to sleep."""
    turning: Literal["", "sleep", "wake"] = ""
    """On its way to sleep (still `ready`) or back (still `asleep`)."""
    awake: Claims = msgspec.field(default_factory=dict)
    """Of one that sleeps: what it will take again."""
    limit: int = 1
    speed: float = 1.0
    leases: set[int] = msgspec.field(default_factory=set)
    elsewhere: int = 0
    """Requests that it reports and that did not come through here."""
    surplus: int = 0
    """The same, by its last report alone."""
    healthy: bool = False
    epoch: int = 0
    """Grows each time that it becomes fit for use again."""
    failures: int = 0
    """Probes in a row that failed."""
    deaths: int = 0
    """Deaths in a row."""
    restarts: int = 0
    serving: bool = False
    """It was ready since its process started."""
    making_room: bool = False
    """It rests while others leave, to try again with their memory."""
    retried_early: bool = False
    retried_memory: bool = False
    draining: bool = False
    after: After = ""
    error: str = ""
    retry_at: float = 0.0
    ready_at: float = 0.0
    idle_since: float = 0.0
    last_progress: float = 0.0
    check_beat: bool = False
    last_beat: float = 0.0
    drain_by: float = float("inf")

    @property
    def idle(self) -> bool:
        return not self.leases and not self.elsewhere


class State(msgspec.Struct):
    config: Config = msgspec.field(default_factory=Config)
    models: dict[str, Model] = msgspec.field(default_factory=dict)
    workers: dict[str, Worker] = msgspec.field(default_factory=dict)
    local: dict[str, None] = msgspec.field(default_factory=dict)
    """Workers that were started here: few, however many there are elsewhere."""
    queued: dict[int, str] = msgspec.field(default_factory=dict)
    """Waiting request to its model."""
    leases: dict[int, str] = msgspec.field(default_factory=dict)
    """Granted request to its worker."""
    pending: dict[str, None] = msgspec.field(default_factory=dict)
    """Models to start, first come first served, that wait for room."""
    short: dict[str, None] = msgspec.field(default_factory=dict)
    """Models that have fewer workers than they are to have."""
    free: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes free on each device, as last read; one that is missing is not bounded."""
    read_at: float = float("-inf")
    """When that was."""
    base: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes that were free on a device before those began that are loading there now."""
    epoch: int = 0
    """The last one that a worker was given."""
    last_exit: dict[str, float] = msgspec.field(default_factory=dict)
    stopping: bool = False
    stopped: bool = False
    timers: list[tuple[float, str, str]] = msgspec.field(default_factory=list)
    armed: dict[tuple[str, str], float] = msgspec.field(default_factory=dict)
    wake: float = float("inf")
    rng: random.Random = msgspec.field(default_factory=lambda: random.Random(0))

    def local_workers(self) -> list[Worker]:
        return [self.workers[name] for name in self.local]

    def worker_models(self, worker: Worker) -> list[Model]:
        return [self.models[name] for name in worker.models if name in self.models]


class Turn:
    """One decision being made: the state, the time, and what is to be carried out."""

    __slots__ = ("effects", "now", "state")

    def __init__(self, state: State, now: float) -> None:
        self.state = state
        self.now = now
        self.effects: list[Effect] = []

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def arm(self, kind: str, name: str, at: float) -> None:
        """Look at (kind, name) at this time at the latest. One earlier look already planned is enough."""
        if at == float("inf"):
            return
        key = (kind, name)
        if self.state.armed.get(key, float("inf")) <= at:
            return
        self.state.armed[key] = at
        heapq.heappush(self.state.timers, (at, kind, name))

    def due(self) -> tuple[str, str] | None:
        """The next (kind, name) whose time has come."""
        timers = self.state.timers
        while timers and timers[0][0] <= self.now:
            at, kind, name = heapq.heappop(timers)
            if self.state.armed.get((kind, name)) == at:
                del self.state.armed[kind, name]
                return kind, name
        return None
