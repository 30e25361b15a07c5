"""What the scheduler is told and what it asks for: plain values, nothing else crosses its border."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from daemon.scheduler.config import Config
from daemon.scheduler.placement import Needs


class Event(msgspec.Struct, frozen=True):
    """Something that happened."""


class RequestArrived(Event, frozen=True):
    """A request wants a worker that serves `model`."""

    id: int
    model: str
    exclude: tuple[str, ...] = ()
    """Workers that just failed this request; each is probed before it is used again."""
    keep_alive: float | None = None
    """Seconds that the worker stays loaded after this request; None leaves it as it is."""
    prefixes: tuple[int, ...] = ()
    """Hashes of its leading parts, each one longer than the one before: what a replica's cache may hold."""
    ends_here: bool = False
    """Daemons passed it on as often as may be: it goes to no worker that may be another one."""


class RequestCancelled(Event, frozen=True):
    """The client left while it waited."""

    id: int


class RequestDone(Event, frozen=True):
    """A granted request ended. `failed`: the worker did not answer as it should."""

    id: int
    failed: bool = False


class ModelDeclared(Event, frozen=True):
    """A model that can be started here."""

    name: str
    worker: str
    """What its workers are called; the second gets `-2`."""
    keep_alive: float
    needs: Needs = Needs()
    replicas: int = 1
    """How many workers it has while it is loaded, as far as memory allows."""


class ModelWithdrawn(Event, frozen=True):
    """A model that can no longer be started here; its workers end when their requests have."""

    name: str


class Reconfigured(Event, frozen=True):
    """The bounds have changed."""

    config: Config


class LoadRequested(Event, frozen=True):
    """Somebody wants the model to run; this forgives earlier failures."""

    model: str
    keep_alive: float | None = None
    replicas: int = 0
    """How many workers it is to have; 0 leaves that as it was declared."""


class UnloadRequested(Event, frozen=True):
    model: str


class WorkerProgressed(Event, frozen=True):
    """A loading worker did something that shows it is not stuck."""

    worker: str


class WorkerReady(Event, frozen=True):
    """A worker that was started here has registered and answered a probe."""

    worker: str
    limit: int
    speed: float = 1.0
    sleeps: bool = False
    """It can be put to sleep: then its GPU memory is free and its process stays."""


class WorkerSlept(Event, frozen=True):
    """What `Sleep` asked for is done, or could not be."""

    worker: str
    ok: bool
    reason: str = ""


class WorkerWoke(Event, frozen=True):
    """What `Wake` asked for is done, or could not be."""

    worker: str
    ok: bool
    reason: str = ""


class WorkerExited(Event, frozen=True):
    """The process of a worker started here is gone, whoever ended it."""

    worker: str
    reason: str
    fatal: bool = False
    """It said itself why it cannot load: trying again would end the same way."""
    out_of_memory: bool = False


class WorkerJoined(Event, frozen=True):
    """A worker that nobody here started has registered (or registered again)."""

    worker: str
    models: tuple[str, ...]
    limit: int
    speed: float = 1.0
    check_beat: bool = True
    passes_on: bool = False
    """It is a daemon, or may be one."""


class WorkerBeat(Event, frozen=True):
    worker: str
    queue_length: int
    memory: int = 0
    """Bytes that it holds; 0 is not said."""


class SentElsewhere(Event, frozen=True):
    """A client was given this worker's address and goes there by itself."""

    worker: str


class WorkerLeft(Event, frozen=True):
    """Forget a worker that nobody here started."""

    worker: str


class ProbeAnswered(Event, frozen=True):
    worker: str
    ok: bool


class RestartRequested(Event, frozen=True):
    worker: str


class StopRequested(Event, frozen=True):
    """Stop one worker for good, its running requests first."""

    worker: str


class MemoryRead(Event, frozen=True):
    """Bytes free on each device now: `cpu` for RAM, and the GPUs in their order. What is missing is not bounded."""

    free: Mapping[str, int]


class Ticked(Event, frozen=True):
    """Time passed."""


class StopAll(Event, frozen=True):
    """The daemon stops: refuse what waits, let what runs finish up to the deadline."""

    drain_s: float


class Effect(msgspec.Struct, frozen=True):
    """Something to carry out."""


class Grant(Effect, frozen=True):
    id: int
    worker: str


class Refuse(Effect, frozen=True):
    id: int
    status: int
    code: str
    message: str
    retry_after: int | None = None


class Spawn(Effect, frozen=True):
    worker: str
    model: str
    gpus: tuple[str, ...] = ()
    """The GPUs that it is to have; none keeps it to RAM where the machine has GPUs, else leaves it to itself."""
    in_ram: bool = False
    claims: Mapping[str, int] = {}
    """Bytes that were set aside for it on each device."""
    kv_bytes: int = 0
    """What its KV cache may take of its one device, since several there must not count on the same room; 0: unknown."""


class Sleep(Effect, frozen=True):
    """Have a worker give its GPU memory back and keep its process; answer with `WorkerSlept`."""

    worker: str


class Wake(Effect, frozen=True):
    """Have a worker that sleeps take its GPU memory again; answer with `WorkerWoke`."""

    worker: str


class Stop(Effect, frozen=True):
    """End a worker's process: ask, wait `grace_s`, then kill."""

    worker: str
    grace_s: float


class Probe(Effect, frozen=True):
    """Ask the worker now whether it lives."""

    worker: str


class Changed(Effect, frozen=True):
    worker: str


class Gone(Effect, frozen=True):
    worker: str


class LoadRefused(Effect, frozen=True):
    """The model cannot be started now."""

    model: str
    message: str


class WakeAt(Effect, frozen=True):
    """Send `Ticked` at this time; replaces the earlier wish."""

    at: float


class AllStopped(Effect, frozen=True):
    """After StopAll: no process is left."""
