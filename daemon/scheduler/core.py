"""`decide`: one event in, the changed state and what to do about it out. No I/O, no clock, no waiting.

The state that is passed in is consumed: the caller keeps only the one that comes back. The same state, event and time
always give the same effects.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from daemon.scheduler import events as e
from daemon.scheduler import workers
from daemon.scheduler.launching import living
from daemon.scheduler.loading import drain, ensure, place, respawn, scale_down
from daemon.scheduler.requests import goes_round, pump, refuse_if_full, refuse_waiting, suspect
from daemon.scheduler.state import Model, State, Turn, Waiting
from daemon.scheduler.timers import fire

_GOES_ROUND = (
    "Daemons that are attached to each other pass this request for '{}' round: no worker serves it but by passing it on"
    " once more. The daemon's log (`fcd daemon logs`) says which worker to detach."
)
"""For clients, which are told no addresses."""


def decide(state: State, event: e.Event, now: float) -> tuple[State, list[e.Effect]]:
    """What follows from `event` at time `now`."""
    turn = Turn(state, now)
    _HANDLERS[type(event)](turn, event)
    while (due := turn.due()) is not None:
        fire(turn, *due)
    _all_stopped(turn)
    _wake(turn)
    return state, turn.effects


def _wake(turn: Turn) -> None:
    timers, armed = turn.state.timers, turn.state.armed
    while timers and armed.get(timers[0][1:]) != timers[0][0]:
        heapq.heappop(timers)
    wake = timers[0][0] if timers else math.inf
    if wake != turn.state.wake:
        turn.state.wake = wake
        if wake != math.inf:
            turn.do(e.WakeAt(wake))


def _all_stopped(turn: Turn) -> None:
    state = turn.state
    if state.stopping and not state.stopped and not state.local:
        state.stopped = True
        turn.do(e.AllStopped())


def _arrived(turn: Turn, event: e.RequestArrived) -> None:
    state = turn.state
    model = state.models.get(event.model)
    if state.stopping or model is None:
        code, message = ("shutting_down", "The daemon is shutting down.")
        if not state.stopping:
            code, message = ("no_worker", f"No worker serves '{event.model}' now.")
        turn.do(e.Refuse(event.id, 503, code, message, 5))
        return
    exclude: dict[str, int] = {}
    for name in event.exclude:
        worker = state.workers.get(name)
        if worker is not None:
            exclude[name] = worker.epoch
            suspect(turn, worker)
    request = Waiting(event.id, exclude, turn.now, event.keep_alive, event.prefixes, event.ends_here)
    if event.ends_here and goes_round(state, model, request):
        turn.do(e.Refuse(event.id, 508, "loop", _GOES_ROUND.format(model.name), None))
        return
    model.waiting[event.id] = request
    state.queued[event.id] = model.name
    pump(turn, model)
    refuse_if_full(turn, model, request)
    if request.id in model.waiting:
        turn.arm("wait", model.name, turn.now + state.config.max_wait_s)
        ensure(turn, model)
        workers.prune(turn, model)


def _cancelled(turn: Turn, event: e.RequestCancelled) -> None:
    name = turn.state.queued.pop(event.id, None)
    if name is None:
        return
    model = turn.state.models[name]
    del model.waiting[event.id]
    if not model.waiting and not model.wanted:
        turn.state.pending.pop(name, None)
        place(turn)
        workers.prune(turn, model)


def _done(turn: Turn, event: e.RequestDone) -> None:
    name = turn.state.leases.pop(event.id, None)
    worker = turn.state.workers.get(name) if name is not None else None
    if worker is None:
        return
    worker.leases.discard(event.id)
    worker.idle_since = turn.now
    if event.failed:
        suspect(turn, worker)
    else:
        worker.deaths = 0
        worker.retried_early = worker.retried_memory = False
    workers.freed(turn, worker)


def _declared(turn: Turn, event: e.ModelDeclared) -> None:
    model = turn.state.models.setdefault(event.name, Model(event.name))
    model.worker = event.worker
    model.loadable = True
    model.declared = model.needs = event.needs
    for name in model.workers:
        worker = turn.state.workers[name]
        if worker.local and worker.keep_alive == model.keep_alive != event.keep_alive:
            worker.keep_alive = event.keep_alive
            workers.arm_ttl(turn, worker)
    model.keep_alive = event.keep_alive
    if model.replicas != event.replicas:
        model.replicas = event.replicas
        _retarget(turn, model, event.replicas)


def _withdrawn(turn: Turn, event: e.ModelWithdrawn) -> None:
    model = turn.state.models.get(event.name)
    if model is None:
        return
    _unload(turn, e.UnloadRequested(event.name))
    model.loadable = False
    turn.state.pending.pop(event.name, None)
    if not any(not turn.state.workers[name].local for name in model.workers):
        refuse_waiting(turn, model, "no_worker", f"'{event.name}' was taken out of config.toml.")
    workers.prune(turn, model)


def _reconfigured(turn: Turn, event: e.Reconfigured) -> None:
    """Waits that are under way keep the limits that they began with."""
    turn.state.config = event.config


def _retarget(turn: Turn, model: Model, replicas: int) -> None:
    """Have so many workers from now on, if there are any."""
    there = len(living(turn.state, model))
    if not there:
        return
    model.target = replicas
    if there < replicas:
        turn.state.short[model.name] = None
        place(turn)
    else:
        turn.state.short.pop(model.name, None)
        scale_down(turn, model)


def _load(turn: Turn, event: e.LoadRequested) -> None:
    model = turn.state.models.get(event.model)
    if model is None or turn.state.stopping:
        turn.do(e.LoadRefused(event.model, "The daemon is shutting down."))
        return
    model.wanted = True
    model.needs = model.declared
    model.next_keep_alive = event.keep_alive
    model.lacking = ""
    model.deaths = 0
    model.target = event.replicas or model.target
    if living(turn.state, model):
        scale_down(turn, model)
    for name in list(model.workers):
        worker = turn.state.workers[name]
        if worker.local and event.keep_alive is not None:
            worker.keep_alive = event.keep_alive
            workers.arm_ttl(turn, worker)
        if worker.state in ("failed", "backoff"):
            worker.deaths = 0
            worker.retried_early = worker.retried_memory = False
            respawn(turn, worker)
        elif worker.state in ("starting", "loading", "ready") and not worker.draining:
            model.wanted = False
    if not model.wanted:
        model.next_keep_alive = None
    if living(turn.state, model):
        _retarget(turn, model, model.target)
    ensure(turn, model)


def _unload(turn: Turn, event: e.UnloadRequested) -> None:
    model = turn.state.models.get(event.model)
    if model is None:
        return
    model.wanted = False
    model.target = 0
    for name in list(model.workers):
        worker = turn.state.workers[name]
        if worker.local:
            drain(turn, worker, "remove", by=turn.now + turn.state.config.drain_s)
    ensure(turn, model)


def _restart(turn: Turn, event: e.RestartRequested) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or not worker.local or turn.state.stopping:
        return
    worker.deaths = 0
    worker.retried_early = worker.retried_memory = False
    for model in turn.state.worker_models(worker):
        model.needs = model.declared
    drain(turn, worker, "restart", by=turn.now + turn.state.config.drain_s)


def _stop(turn: Turn, event: e.StopRequested) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None:
        return
    models = turn.state.worker_models(worker)
    if worker.local:
        for model in models:
            model.target = max(0, model.target - 1)
        drain(turn, worker, "remove", by=turn.now + turn.state.config.drain_s)
    else:
        workers.forget(turn, worker)
    for model in models:
        ensure(turn, model)


def _sent_elsewhere(turn: Turn, event: e.SentElsewhere) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is not None:
        worker.elsewhere += 1
        worker.surplus += 1


def _memory(turn: Turn, event: e.MemoryRead) -> None:
    turn.state.free = dict(event.free)
    turn.state.read_at = turn.now
    for worker in turn.state.local_workers():
        worker.unread = False
    if turn.state.pending or turn.state.short:
        place(turn)


def _ticked(turn: Turn, event: e.Ticked) -> None:
    """The timers do the work. What was wished for has come, if a little early, so it must be wished for again."""
    turn.state.wake = math.inf


def _stop_all(turn: Turn, event: e.StopAll) -> None:
    state = turn.state
    if state.stopping:
        return
    state.stopping = True
    state.pending.clear()
    state.short.clear()
    for model in state.models.values():
        model.wanted = False
        refuse_waiting(turn, model, "shutting_down", "The daemon is shutting down.", 5)
    for worker in list(state.workers.values()):
        if worker.local:
            drain(turn, worker, "remove", by=turn.now + event.drain_s)


_HANDLERS: dict[type[e.Event], Callable[[Turn, Any], None]] = {
    e.RequestArrived: _arrived,
    e.RequestCancelled: _cancelled,
    e.RequestDone: _done,
    e.ModelDeclared: _declared,
    e.ModelWithdrawn: _withdrawn,
    e.Reconfigured: _reconfigured,
    e.LoadRequested: _load,
    e.UnloadRequested: _unload,
    e.RestartRequested: _restart,
    e.StopRequested: _stop,
    e.SentElsewhere: _sent_elsewhere,
    e.MemoryRead: _memory,
    e.Ticked: _ticked,
    e.StopAll: _stop_all,
    e.WorkerProgressed: workers.progressed,
    e.WorkerReady: workers.ready,
    e.WorkerSlept: workers.slept,
    e.WorkerWoke: workers.woke,
    e.WorkerExited: workers.exited,
    e.WorkerJoined: workers.joined,
    e.WorkerBeat: workers.beat,
    e.WorkerLeft: workers.left,
    e.ProbeAnswered: workers.probed,
}
