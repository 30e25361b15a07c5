"""Workers: how they come, serve, die, rest and return."""

from __future__ import annotations

import math

from daemon.scheduler import events as e
from daemon.scheduler.launching import living, remove, rest, stop
from daemon.scheduler.loading import backoff_message, drain, ensure, failure_message, place, respawn, wake
from daemon.scheduler.memory import available, settle_base
from daemon.scheduler.placement import Claims, Needs, plan, shortage, ways
from daemon.scheduler.requests import drop_leases, pump, refuse_waiting, suspect
from daemon.scheduler.sleep import has_lain_down, has_risen, sleeper, wake_claims, wake_needs
from daemon.scheduler.state import Model, Turn, Worker

_MOST_ELSEWHERE = 10_000
_LEAST_SPEED, _MOST_SPEED = 0.001, 1e6


def progressed(turn: Turn, event: e.WorkerProgressed) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None:
        return
    worker.last_progress = turn.now
    if worker.state == "starting":
        worker.state = "loading"
    turn.do(e.Changed(worker.name))


def ready(turn: Turn, event: e.WorkerReady) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or worker.state not in ("starting", "loading"):
        return
    worker.state = "ready"
    worker.serving = True
    worker.limit = max(1, event.limit)
    worker.speed = clamp_speed(event.speed)
    worker.error = ""
    worker.ready_at = worker.idle_since = turn.now
    worker.sleeps = event.sleeps
    _has_taken(turn, worker.claims)
    fit_again(turn, worker)
    turn.do(e.Changed(worker.name))
    arm_ttl(turn, worker)
    place(turn)


def _has_taken(turn: Turn, claims: Claims) -> None:
    for device, size in claims.items():
        if device in turn.state.base:
            turn.state.base[device] -= size
    settle_base(turn.state)


def slept(turn: Turn, event: e.WorkerSlept) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or worker.turning != "sleep":
        return
    models = turn.state.worker_models(worker)
    if event.ok:
        has_lain_down(turn, worker)
    else:
        worker.error = event.reason
        worker.after = "remove"
        stop(turn, worker)
    for model in models:
        ensure(turn, model)
    place(turn)


def woke(turn: Turn, event: e.WorkerWoke) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or worker.turning != "wake":
        return
    if not event.ok:
        # It is loaded again once it is gone, if somebody waits for it.
        worker.error = event.reason
        worker.after = "remove"
        stop(turn, worker)
        place(turn)
        return
    taken = wake_claims(worker)
    has_risen(turn, worker)
    _has_taken(turn, taken)
    models = turn.state.worker_models(worker)
    for model in models:
        model.wanted = False
    fit_again(turn, worker)
    turn.do(e.Changed(worker.name))
    arm_ttl(turn, worker)
    for model in models:
        _wake_replicas(turn, model)
    place(turn)


def _wake_replicas(turn: Turn, model: Model) -> None:
    """Those that rested with it come back with it, as far as there is room."""
    while (other := sleeper(turn.state, model)) is not None:
        if plan(wake_needs(other), available(turn.state)) is None:
            return
        wake(turn, other)


def fit_again(turn: Turn, worker: Worker) -> None:
    """It has shown that it lives: what waits may go there."""
    worker.failures = 0
    worker.healthy = True
    worker.error = ""
    # Of all workers, so that one that is made anew under an old name is not taken for the one that failed a request.
    turn.state.epoch += 1
    worker.epoch = turn.state.epoch
    for model in turn.state.worker_models(worker):
        pump(turn, model)


def freed(turn: Turn, worker: Worker) -> None:
    """A request of this worker ended: serve the next, the one that waited longest first."""
    if worker.draining:
        if worker.idle and worker.state == "ready":
            stop(turn, worker)
        return
    waiting = [model for model in turn.state.worker_models(worker) if model.waiting]
    for model in sorted(waiting, key=lambda each: next(iter(each.waiting.values())).since):
        pump(turn, model)
    arm_ttl(turn, worker)
    if turn.state.pending:
        place(turn)


def arm_ttl(turn: Turn, worker: Worker) -> None:
    if worker.local and worker.state == "ready" and worker.idle:
        for each in siblings(turn, worker):
            turn.arm("ttl", each.name, max(turn.now, rest_end(turn, each)))


def siblings(turn: Turn, worker: Worker) -> list[Worker]:
    """The worker and the other replicas of its model that serve."""
    if len(worker.models) == 1 and len(turn.state.models[worker.models[0]].workers) == 1:
        return [worker]
    models = turn.state.worker_models(worker)
    names = dict.fromkeys(name for model in models for name in model.workers) or {worker.name: None}
    found = (turn.state.workers[name] for name in names)
    return [each for each in found if each.local and each.state == "ready"]


def rest_end(turn: Turn, worker: Worker) -> float:
    """When an idle worker has rested enough: replicas rest together, or the one used least would come and go."""
    there = siblings(turn, worker)
    if len(there) == 1:
        return worker.idle_since + worker.keep_alive
    if any(not each.idle for each in there):
        return math.inf
    return max((each.idle_since + each.keep_alive for each in there), default=math.inf)


def exited(turn: Turn, event: e.WorkerExited) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or not worker.local:
        return
    drop_leases(turn, worker)
    for device in worker.claims:
        turn.state.last_exit[device] = turn.now
    settle_base(turn.state, worker)
    models = turn.state.worker_models(worker)
    if turn.state.stopping or (worker.state == "stopping" and worker.after == "remove") or worker.draining:
        if worker.after == "restart" and not turn.state.stopping:
            respawn(turn, worker)
        else:
            remove(turn, worker)
    elif worker.state == "stopping" and worker.after == "restart":
        respawn(turn, worker)
    elif worker.state == "asleep" or worker.turning or _is_surplus(turn, worker):
        remove(turn, worker)
    else:
        _died(turn, worker, event)
    for model in models:
        ensure(turn, model)
    place(turn)


def _is_surplus(turn: Turn, worker: Worker) -> bool:
    """A replica that died when fewer were wanted already need not come back."""
    model = turn.state.models.get(worker.models[0])
    return model is not None and len(living(turn.state, model)) > max(1, model.target)


def _died(turn: Turn, worker: Worker, event: e.WorkerExited) -> None:
    config = turn.state.config
    was_serving = worker.serving
    if was_serving and turn.now - worker.ready_at >= config.stable_s:
        worker.deaths = 0
        worker.retried_early = False
    worker.deaths += 1
    worker.restarts += 1
    worker.healthy = False
    if worker.after != "death":
        worker.error = event.reason
    worker.after = ""
    worker.state = "stopped"  # what it had claimed is free again
    if event.out_of_memory:
        worker.error = _short_of_memory(turn, worker, worker.error)
    if event.out_of_memory and not worker.retried_memory and _make_all_room(turn, worker):
        worker.retried_memory = worker.making_room = True
        rest(turn, worker, config.settle_s)
    elif (event.fatal and not was_serving) or worker.deaths >= config.max_deaths:
        _failed(turn, worker)
    elif worker.deaths == 1 and (was_serving or _is_waited_for(turn, worker)):
        worker.retried_early = True
        respawn(turn, worker)
    else:
        wait = min(config.backoff_base_s * 2 ** (worker.deaths - 1), config.backoff_max_s)
        rest(turn, worker, wait)
        for model in turn.state.worker_models(worker):
            if not _served_by_others(turn, model, worker):
                seconds = max(1, math.ceil(wait))
                refuse_waiting(turn, model, "worker_died", backoff_message(model, worker, seconds), seconds)


def _failed(turn: Turn, worker: Worker) -> None:
    worker.state = "failed"
    turn.do(e.Changed(worker.name))
    for model in turn.state.worker_models(worker):
        if not _served_by_others(turn, model, worker):
            code = "out_of_memory" if worker.retried_memory else "model_failed"
            refuse_waiting(turn, model, code, failure_message(model, worker))


def _is_waited_for(turn: Turn, worker: Worker) -> bool:
    return any(model.waiting for model in turn.state.worker_models(worker))


def _served_by_others(turn: Turn, model: Model, worker: Worker) -> bool:
    others = (turn.state.workers[name] for name in model.workers if name != worker.name)
    return any(other.state in ("starting", "loading", "ready") for other in others)


def _short_of_memory(turn: Turn, worker: Worker, error: str) -> str:
    model = turn.state.models.get(worker.models[0])
    if model is None or model.needs == Needs():
        return error
    return f"{error} It takes {shortage(model.needs, available(turn.state))}."


def _make_all_room(turn: Turn, worker: Worker) -> bool:
    """Let every idle worker on the same devices go, and ask for more; whether the next try has a better chance."""
    devices = set(worker.claims)
    idle = [
        other
        for other in turn.state.local_workers()
        if other is not worker
        and devices & set(other.claims)
        and other.state == "ready"
        and other.idle
        and not other.draining
    ]
    for other in idle:
        drain(turn, other, "remove", by=turn.now)
    model = turn.state.models.get(worker.models[0])
    if model is None:
        return False
    more, free = model.needs.grown(), available(turn.state)
    elsewhere = next((claims for way in ways(more, free) if (claims := plan(way, free)) is not None), None)
    if not idle and (elsewhere is None or set(elsewhere) == devices):
        return False
    model.needs = more
    return True


def joined(turn: Turn, event: e.WorkerJoined) -> None:
    state = turn.state
    worker = state.workers.get(event.worker)
    if worker is not None and worker.local:
        return
    if worker is None:
        worker = Worker(event.worker, (), local=False, state="loading")
        state.workers[event.worker] = worker
    elif worker.state == "lost":
        worker.state = "loading"
        worker.healthy = False
    _serve(turn, worker, event.models)
    worker.limit = max(1, event.limit)
    worker.speed = clamp_speed(event.speed)
    worker.check_beat = event.check_beat
    worker.passes_on = event.passes_on
    worker.last_beat = turn.now
    worker.failures = 0
    if event.check_beat:
        turn.arm("beat", worker.name, turn.now + state.config.heartbeat_s)
    turn.do(e.Probe(worker.name))
    turn.do(e.Changed(worker.name))
    for model in state.worker_models(worker):
        pump(turn, model)


def _serve(turn: Turn, worker: Worker, names: tuple[str, ...]) -> None:
    """Enter it with the models that it serves now, and take it from those that it no longer does."""
    before = worker.models
    worker.models = tuple(dict.fromkeys(names))
    for name in worker.models:
        turn.state.models.setdefault(name, Model(name)).workers[worker.name] = None
    for name in before:
        model = turn.state.models.get(name)
        if model is not None and name not in worker.models:
            model.workers.pop(worker.name, None)
            ensure(turn, model)
            prune(turn, model)


def prune(turn: Turn, model: Model) -> None:
    """Forget a model that nothing serves, nothing can start and nobody waits for."""
    if not model.loadable and not model.workers and not model.waiting:
        turn.state.models.pop(model.name, None)


def beat(turn: Turn, event: e.WorkerBeat) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None or worker.state == "lost":
        return
    was, surplus = worker.elsewhere, min(_MOST_ELSEWHERE, max(0, event.queue_length - len(worker.leases)))
    worker.last_beat = turn.now
    if event.memory > 0 and worker.local and len(worker.claims) == 1 and worker.state != "asleep":
        worker.claims = {device: max(event.memory, size) for device, size in worker.claims.items()}
    # A request that ends while the report travels looks like one from elsewhere, but never twice in a row.
    worker.elsewhere, worker.surplus = min(worker.surplus, surplus), surplus
    if was and not worker.elsewhere:
        worker.idle_since = turn.now
        freed(turn, worker)


def left(turn: Turn, event: e.WorkerLeft) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is not None and not worker.local:
        forget(turn, worker)


def forget(turn: Turn, worker: Worker) -> None:
    models = turn.state.worker_models(worker)
    remove(turn, worker)
    for model in models:
        ensure(turn, model)
        prune(turn, model)


def lose(turn: Turn, worker: Worker, reason: str) -> None:
    """A worker elsewhere is out of reach; it returns by registering again."""
    if worker.state == "lost":
        return
    drop_leases(turn, worker)
    worker.state = "lost"
    worker.healthy = False
    worker.error = reason
    turn.arm("gone", worker.name, turn.now + turn.state.config.lost_keep_s)
    turn.do(e.Changed(worker.name))
    for model in turn.state.worker_models(worker):
        ensure(turn, model)


def probed(turn: Turn, event: e.ProbeAnswered) -> None:
    worker = turn.state.workers.get(event.worker)
    if worker is None:
        return
    if event.ok:
        _answered(turn, worker)
    else:
        _silent(turn, worker)


def _answered(turn: Turn, worker: Worker) -> None:
    if not worker.local and (worker.state == "loading" or (worker.state == "lost" and not worker.check_beat)):
        worker.state = "ready"
        worker.error = ""
        worker.ready_at = turn.now
        turn.do(e.Changed(worker.name))
    worker.failures = 0
    if worker.state == "ready" and not worker.healthy and not worker.turning:
        fit_again(turn, worker)
        turn.do(e.Changed(worker.name))


def _silent(turn: Turn, worker: Worker) -> None:
    # One that turns may be too busy to answer; how long that may take is bounded otherwise.
    if worker.state not in ("ready", "loading", "asleep") or worker.turning:
        return
    suspect(turn, worker)
    worker.failures += 1
    if worker.failures < turn.state.config.probe_failures:
        return
    reason = f"It did not answer {worker.failures} probes in a row."
    if not worker.local:
        lose(turn, worker, reason)
    elif worker.state == "asleep":
        worker.error = reason
        drain(turn, worker, "remove", by=turn.now)
    elif worker.state == "ready":
        worker.after = "death" if not worker.draining else worker.after
        worker.error = reason
        stop(turn, worker, grace_s=0.0)


def clamp_speed(speed: float) -> float:
    """A speed that can be divided by, whatever a worker claims."""
    if not math.isfinite(speed):
        return 1.0
    return min(_MOST_SPEED, max(_LEAST_SPEED, speed))
