"""Carries out what the scheduler decides. It alone changes worker state; everybody else reads snapshots.

All of it runs on the daemon's event loop: `submit` feeds one event after another to the scheduler, also those that the
effects of an earlier one bring about, so no two decisions overlap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from functools import cached_property
from typing import Any

import msgspec

from daemon.controller.registry import Record, Registry
from daemon.scheduler import Config, State, decide
from daemon.scheduler import events as e
from daemon.supervisor.launch import LaunchSpec, Place, share_of
from daemon.supervisor.local import LocalWorker, Tokens, clear_sockets
from daemon.supervisor.memory import MemoryProbe
from daemon.supervisor.probe import Prober
from daemon.supervisor.process import Spawn
from daemon.supervisor.turn import HttpTurner, Turner, Way
from fcd.errors import ApiError
from fcd.paths import Paths

log = logging.getLogger("fcd.supervisor")

_MEMORY_FRESH_S = 0.2
_CLOSE_SLACK_S = 5.0


class Timing(msgspec.Struct, frozen=True):
    """How often workers are asked whether they live, in seconds."""

    probe_s: float = 5.0
    probe_timeout_s: float = 10.0
    suspect_probe_s: float = 1.0
    """For one that just failed."""
    first_probe_s: float = 0.1
    """For one that registered and does not answer yet."""
    turn_s: float = 120.0
    """How long one may take to go to sleep, and to wake."""


class Supervisor:
    """The workers' life."""

    def __init__(
        self,
        *,
        paths: Paths,
        tokens: Tokens,
        registry: Registry,
        spawn: Spawn,
        prober: Prober,
        memory: MemoryProbe,
        config: Config,
        timing: Timing,
        controller_url: Callable[[], str],
        on_change: Callable[[str], None],
        on_gone: Callable[[str], None],
        use_sockets: bool = True,
        totals: Callable[[], Mapping[str, int]] = dict,
        refresh: Callable[[], Awaitable[None]] | None = None,
        turner: Turner | None = None,
    ) -> None:
        """`totals`: the whole memory of each GPU; `refresh`: have the memory probe look at the GPUs again."""
        self.state = State(config=config)
        self.local: dict[str, LocalWorker] = {}
        self.registry = registry
        self.specs: dict[str, LaunchSpec] = {}
        """Models that can be started here, by name."""
        self.refusals: dict[str, str] = {}
        """Why a model's last load was refused."""
        self._paths = paths
        self._tokens = tokens
        self._spawn = spawn
        self._prober = prober
        self._memory = memory
        self._timing = timing
        self._controller_url = controller_url
        self._on_change = on_change
        self._on_gone = on_gone
        self._use_sockets = use_sockets
        self._totals = totals
        self._refresh = refresh
        self._turner = turner or HttpTurner(timing.turn_s)
        self._inbox: deque[e.Event] = deque()
        self._busy = False
        self._last_id = 0
        self._waiters: dict[int, asyncio.Future[str]] = {}
        self._wake: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._pokes: dict[str, asyncio.Event] = {}
        self._stopped = asyncio.Event()
        self._memory_read = float("-inf")

    # Life

    def start(self) -> None:
        clear_sockets(self._paths.sockets)

    async def close(self, drain_s: float) -> None:
        """End every local worker: what runs may finish for `drain_s`. Cancelling it kills them at once."""
        self.submit(e.StopAll(drain_s))
        config = self.state.config
        try:
            async with asyncio.timeout(drain_s + config.stop_grace_s + _CLOSE_SLACK_S):
                await self._stopped.wait()
        except TimeoutError:
            log.warning("workers did not end in time: %s", ", ".join(self.local))
        finally:
            for worker in self.local.values():
                worker.kill()
            if self._wake is not None:
                self._wake.cancel()
            for task in [*self._watches.values(), *self._tasks]:
                task.cancel()

    # Events in

    def submit(self, event: e.Event) -> None:
        """Let the scheduler decide about an event and carry out what follows."""
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self.state, effects = decide(self.state, self._inbox.popleft(), self.now())
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._busy = False

    def now(self) -> float:
        return self._loop.time()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The loop that all of it runs on. Asking for it is a system call each time, so it is asked for once."""
        return asyncio.get_running_loop()

    async def acquire(
        self,
        model: str,
        exclude: Collection[str] = (),
        keep_alive: float | None = None,
        prefixes: tuple[int, ...] = (),
        ends_here: bool = False,
    ) -> Lease:
        """Wait for the right to send one request for a model; see `daemon.dispatch.Dispatcher`.

        Raises:
            ApiError: 429, 503 or 508.
        """
        known = self.state.models.get(model)
        if known is not None and known.loadable and not any(name in self.registry for name in known.workers):
            self.read_memory()
        self._last_id += 1
        number = self._last_id
        waiter: asyncio.Future[str] = self._loop.create_future()
        self._waiters[number] = waiter
        self.submit(e.RequestArrived(number, model, tuple(exclude), keep_alive, prefixes, ends_here))
        try:
            name = await waiter
        except BaseException:
            if self._waiters.pop(number, None) is not None:
                self.submit(e.RequestCancelled(number))
            else:
                self.submit(e.RequestDone(number))
            raise
        record = self.registry.get(name)
        if record is None:
            self.submit(e.RequestDone(number))
            raise ApiError(503, f"The worker '{name}' left.", code="worker_died", retry_after=1)
        return Lease(self, number, record)

    def read_memory(self, *, force: bool = False) -> None:
        now = self.now()
        if force or now - self._memory_read >= _MEMORY_FRESH_S:
            self._memory_read = now
            self.submit(e.MemoryRead(self._memory()))

    def register(self, record: Record) -> None:
        """Enter a worker that registered, or registered again."""
        self.registry.put(record)
        if record.local:
            self._watch(record.name)
        else:
            self.submit(
                e.WorkerJoined(
                    record.name,
                    tuple(record.status.model_names),
                    record.limit,
                    record.status.speed,
                    record.check_beat,
                    record.passes_on,
                )
            )

    def forget(self, name: str) -> None:
        """Take a worker that was started elsewhere out of the table."""
        self.submit(e.WorkerLeft(name))

    def heard(self, record: Record) -> None:
        """A heartbeat came with new figures."""
        self.registry.put(record)
        self.submit(e.WorkerBeat(record.name, record.status.queue_length, record.gauges.memory_bytes))
        self._on_change(record.name)

    def released(self, number: int, worker: str, failed: bool) -> None:
        self.submit(e.RequestDone(number, failed))
        self._on_change(worker)

    # Effects out

    def _carry_out(self, effect: e.Effect) -> None:
        _EFFECTS[type(effect)](self, effect)

    def _grant(self, effect: e.Grant) -> None:
        waiter = self._waiters.pop(effect.id, None)
        if waiter is None or waiter.done():
            self._inbox.append(e.RequestDone(effect.id))
            return
        waiter.set_result(effect.worker)
        self._on_change(effect.worker)

    def _refuse(self, effect: e.Refuse) -> None:
        waiter = self._waiters.pop(effect.id, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(
                ApiError(effect.status, effect.message, code=effect.code, retry_after=effect.retry_after)
            )

    def _start(self, effect: e.Spawn) -> None:
        name = effect.worker
        worker = LocalWorker(
            name,
            self.specs[effect.model],
            place=Place(
                effect.gpus,
                effect.in_ram,
                share_of(effect.claims, self._totals(), self.state.free) if effect.gpus else 0.0,
                effect.kv_bytes,
            ),
            paths=self._paths,
            tokens=self._tokens,
            use_sockets=self._use_sockets,
            on_progress=lambda: self.submit(e.WorkerProgressed(name)),
            on_exit=lambda reason, fatal, memory: self._ended(worker, reason, fatal, memory),
        )
        self.local[name] = worker
        self.refusals.pop(effect.model, None)
        self._later(worker.start(self._spawn, self._controller_url()))

    def _ended(self, worker: LocalWorker, reason: str, fatal: bool, memory: bool) -> None:
        self._unwatch(worker.name)
        self.registry.remove(worker.name)
        worker.process = None
        exited = e.WorkerExited(worker.name, reason, fatal, memory)
        if self._refresh is not None and worker.place.gpus:
            self._later(self._left_gpus(exited, self._refresh))
            return
        self.read_memory(force=True)
        self.submit(exited)

    async def _left_gpus(self, exited: e.WorkerExited, refresh: Callable[[], Awaitable[None]]) -> None:
        """Look at the GPUs first: by an older reading the next model would find them full and go to RAM."""
        await refresh()
        self.read_memory(force=True)
        self.submit(exited)

    def _sleep(self, effect: e.Sleep) -> None:
        self._later(self._turn(effect.worker, "sleep"))

    def _wake_up(self, effect: e.Wake) -> None:
        self._later(self._turn(effect.worker, "wake"))

    async def _turn(self, name: str, way: Way) -> None:
        """Have a worker sleep or wake, and say how that ended; nothing of one whose process has changed meanwhile."""
        local, record = self.local.get(name), self.registry.get(name)
        reason = "It is not registered." if record is None else await self._turner(record.target, way)
        if self._refresh is not None:
            await self._refresh()
        if self.local.get(name) is not local:
            return
        if reason:
            log.warning("worker %s could not %s: %s", name, way, reason)
        self.read_memory(force=True)
        told = e.WorkerSlept if way == "sleep" else e.WorkerWoke
        self.submit(told(name, not reason, reason))

    def _stop(self, effect: e.Stop) -> None:
        worker = self.local.get(effect.worker)
        if worker is not None:
            self._later(worker.stop(effect.grace_s))

    def _probe(self, effect: e.Probe) -> None:
        poke = self._pokes.get(effect.worker)
        if poke is not None:
            poke.set()
        elif self.registry.get(effect.worker) is not None:
            self._watch(effect.worker)

    def _changed(self, effect: e.Changed) -> None:
        self._on_change(effect.worker)

    def _gone(self, effect: e.Gone) -> None:
        self._unwatch(effect.worker)
        self.registry.remove(effect.worker)
        self.local.pop(effect.worker, None)
        self._on_gone(effect.worker)

    def _load_refused(self, effect: e.LoadRefused) -> None:
        self.refusals[effect.model] = effect.message
        self._on_change("")

    def _wake_at(self, effect: e.WakeAt) -> None:
        if self._wake is not None:
            self._wake.cancel()
        self._wake = asyncio.get_running_loop().call_at(effect.at, self._tick)

    def _tick(self) -> None:
        self._wake = None
        if self.state.pending or self.state.short:
            self.read_memory(force=True)
        self.submit(e.Ticked())

    def _all_stopped(self, effect: e.AllStopped) -> None:
        self._stopped.set()

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a worker could not be looked after", exc_info=task.exception())

    # Probes

    def _watch(self, name: str) -> None:
        self._unwatch(name)
        poke = self._pokes[name] = asyncio.Event()
        task = asyncio.get_running_loop().create_task(self._keep_probing(name, poke))
        self._watches[name] = task

    def _unwatch(self, name: str) -> None:
        task = self._watches.pop(name, None)
        self._pokes.pop(name, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _keep_probing(self, name: str, poke: asyncio.Event) -> None:
        """Ask one worker again and again: at once when it is suspected, now and then while all is well."""
        while (record := self.registry.get(name)) is not None and self._pokes.get(name) is poke:
            poke.clear()
            ok = await self._prober(record.target)
            if self._pokes.get(name) is not poke:
                return
            self._report(name, ok)
            if self._pokes.get(name) is not poke:
                return
            pause = self._pause(name)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await poke.wait()
            if poke.is_set():
                # A worker that refuses connections answers at once: do not ask it in a tight loop.
                await asyncio.sleep(min(pause, self._timing.first_probe_s))
            local = self.local.get(name)
            if local is not None:
                local.tend_log()

    def _report(self, name: str, ok: bool) -> None:
        worker = self.state.workers.get(name)
        if worker is None:
            return
        if worker.local and worker.state in ("starting", "loading"):
            local, record = self.local.get(name), self.registry.get(name)
            if ok and local is not None and record is not None:
                local.was_ready, local.progress = True, None
                # What it took must be seen before it counts as loaded.
                self.read_memory(force=True)
                sleeps = "sleep" in record.fcd.capabilities
                self.submit(e.WorkerReady(name, record.limit, record.status.speed, sleeps))
            return
        self.submit(e.ProbeAnswered(name, ok))

    def _pause(self, name: str) -> float:
        worker = self.state.workers.get(name)
        if worker is None or worker.state == "lost":
            return self._timing.probe_s * 3
        if worker.state in ("starting", "loading"):
            return self._timing.first_probe_s if worker.local else self._timing.suspect_probe_s
        return self._timing.probe_s if worker.healthy else self._timing.suspect_probe_s


class Lease:
    """The right to one request; see `daemon.dispatch.Lease`."""

    __slots__ = ("_id", "_released", "_supervisor", "target")

    def __init__(self, supervisor: Supervisor, number: int, record: Record) -> None:
        self.target = record.target
        self._supervisor = supervisor
        self._id = number
        self._released = False

    def release(self, *, failed: bool = False, reason: str = "") -> None:
        if self._released:
            return
        self._released = True
        if failed:
            log.warning("worker %s failed a request: %s", self.target.worker, reason or "no reason given")
        self._supervisor.released(self._id, self.target.worker, failed)


_EFFECTS: Mapping[type[e.Effect], Callable[[Supervisor, Any], None]] = {
    e.Grant: Supervisor._grant,
    e.Refuse: Supervisor._refuse,
    e.Spawn: Supervisor._start,
    e.Sleep: Supervisor._sleep,
    e.Wake: Supervisor._wake_up,
    e.Stop: Supervisor._stop,
    e.Probe: Supervisor._probe,
    e.Changed: Supervisor._changed,
    e.Gone: Supervisor._gone,
    e.LoadRefused: Supervisor._load_refused,
    e.WakeAt: Supervisor._wake_at,
    e.AllStopped: Supervisor._all_stopped,
}
