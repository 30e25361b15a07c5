"""Loads: which models are to be started, whether there is room, and what must leave to make it."""

from __future__ import annotations

import math

from daemon.scheduler.events import Changed, Gone, LoadRefused, Spawn, Stop
from daemon.scheduler.requests import refuse_waiting
from daemon.scheduler.state import After, Model, Turn, Worker

_COMING = ("starting", "loading", "ready", "stopping")


def ensure(turn: Turn, model: Model) -> None:
    """See to it that what waits for this model is served, or refuse it with the reason."""
    if not model.waiting and not model.wanted:
        return
    workers = [turn.state.workers[name] for name in model.workers]
    if any(worker.state in _COMING for worker in workers):
        return
    resting = next((worker for worker in workers if worker.state == "backoff"), None)
    broken = next((worker for worker in workers if worker.state == "failed"), None)
    if resting is not None:
        _hurry(turn, model, resting)
    elif broken is not None:
        refuse_waiting(turn, model, "model_failed", failure_message(model, broken))
    elif model.loadable:
        turn.state.pending[model.name] = None
        place(turn)
    else:
        refuse_waiting(turn, model, "no_worker", f"No worker that serves '{model.name}' can be reached now.", 5)


def failure_message(model: Model, worker: Worker) -> str:
    return (
        f"The worker '{worker.name}' of '{model.name}' has failed: {worker.error} "
        f"`fcd worker restart {worker.name}` tries again."
    )


def backoff_message(model: Model, worker: Worker, wait: int) -> str:
    return f"The worker '{worker.name}' of '{model.name}' died: {worker.error} It starts again in {wait} s."


def _hurry(turn: Turn, model: Model, worker: Worker) -> None:
    """A request for a resting worker wakes it once; after that, waiting is the point of the rest."""
    if worker.making_room:
        return
    if worker.deaths <= 1 and not worker.retried_early:
        worker.retried_early = True
        respawn(turn, worker)
        return
    wait = max(1, math.ceil(worker.retry_at - turn.now))
    refuse_waiting(turn, model, "worker_died", backoff_message(model, worker, wait), wait)


def place(turn: Turn) -> None:
    """Start the pending models that fit, in order; make room for the first of each pool that does not."""
    blocked: set[str] = set()
    for name in list(turn.state.pending):
        model = turn.state.models.get(name)
        if model is None or turn.state.stopping or not (model.waiting or model.wanted):
            del turn.state.pending[name]
        elif model.pool not in blocked:
            if _fits(turn, model):
                del turn.state.pending[name]
                spawn(turn, model)
            elif not _make_room(turn, model):
                del turn.state.pending[name]
                _refuse_load(turn, model)
            else:
                blocked.add(model.pool)


def _in_pool(turn: Turn, pool: str) -> list[Worker]:
    return [worker for worker in turn.state.workers.values() if worker.local and worker.pool == pool]


def _available(turn: Turn, pool: str) -> int | None:
    """Bytes free once what is loading has taken its share."""
    free = turn.state.free.get(pool)
    if free is None:
        return None
    return free - sum(worker.estimate for worker in _in_pool(turn, pool) if worker.state in ("starting", "loading"))


def _fits(turn: Turn, model: Model) -> bool:
    available = _available(turn, model.pool)
    return available is None or not model.estimate or model.estimate <= available


def _make_room(turn: Turn, model: Model) -> bool:
    """Evict idle workers, least recently used first, then let busy ones finish. False: it can never fit."""
    there = [worker for worker in _in_pool(turn, model.pool) if worker.state in _COMING]
    lacking = model.estimate - (_available(turn, model.pool) or 0)
    reclaimable = sum(worker.estimate for worker in there)
    if all(worker.estimate for worker in there) and reclaimable < lacking:
        return _settling(turn, model)
    lacking -= sum(worker.estimate for worker in there if worker.state == "stopping" or worker.draining)
    candidates = [worker for worker in there if worker.state == "ready" and not worker.draining]
    for worker in sorted(candidates, key=lambda each: (not each.idle, each.idle_since)):
        if lacking <= 0:
            break
        lacking -= max(worker.estimate, 1)
        drain(turn, worker, "remove", by=float("inf"))
    return bool(there) or _settling(turn, model)


def _settling(turn: Turn, model: Model) -> bool:
    """Whether memory that was given back lately may still show up."""
    until = turn.state.last_exit.get(model.pool, float("-inf")) + turn.state.config.settle_s
    if turn.now >= until:
        return False
    turn.arm("place", model.pool, until)
    return True


def _refuse_load(turn: Turn, model: Model) -> None:
    free = max(0, _available(turn, model.pool) or 0)
    message = (
        f"'{model.name}' needs about {_gib(model.estimate)} of {model.pool} memory and {_gib(free)} are free. "
        "Unload another model (`fcd ps`), or load it with --load-8bit."
    )
    model.wanted = False
    refuse_waiting(turn, model, "out_of_memory", message)
    turn.do(LoadRefused(model.name, message))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def spawn(turn: Turn, model: Model) -> Worker:
    """A new worker for this model."""
    name, number = model.worker, 1
    while name in turn.state.workers:
        number += 1
        name = f"{model.worker}-{number}"
    worker = Worker(
        name=name,
        models=(model.name,),
        local=True,
        state="starting",
        keep_alive=model.keep_alive if model.next_keep_alive is None else model.next_keep_alive,
        estimate=model.estimate,
        pool=model.pool,
    )
    model.next_keep_alive = None
    turn.state.workers[name] = worker
    model.workers[name] = None
    respawn(turn, worker)
    return worker


def respawn(turn: Turn, worker: Worker) -> None:
    """Start the worker's process; there is none now."""
    worker.state = "starting"
    worker.healthy = False
    worker.serving = worker.draining = worker.making_room = False
    worker.after = ""
    worker.failures = 0
    worker.drain_by = float("inf")
    worker.last_progress = turn.now
    for model in turn.state.worker_models(worker):
        model.wanted = False
    turn.arm("stall", worker.name, turn.now + turn.state.config.load_stall_s)
    turn.do(Spawn(worker.name, worker.models[0]))
    turn.do(Changed(worker.name))


def drain(turn: Turn, worker: Worker, after: After, *, by: float) -> None:
    """No new requests; end its process when the running ones are done, or at `by`."""
    if worker.state in ("backoff", "failed", "stopped"):
        if after == "restart":
            respawn(turn, worker)
        else:
            remove(turn, worker)
        return
    worker.after = after
    if worker.state == "stopping":
        return
    worker.draining = True
    worker.drain_by = min(worker.drain_by, by)
    if worker.state != "ready" or worker.idle:
        stop(turn, worker)
    else:
        turn.arm("drain", worker.name, worker.drain_by)
        turn.do(Changed(worker.name))


def stop(turn: Turn, worker: Worker, *, grace_s: float | None = None) -> None:
    """End the process now; `worker.after` says what follows."""
    worker.state = "stopping"
    worker.healthy = False
    turn.do(Stop(worker.name, turn.state.config.stop_grace_s if grace_s is None else grace_s))
    turn.do(Changed(worker.name))


def remove(turn: Turn, worker: Worker) -> None:
    """Forget the worker."""
    del turn.state.workers[worker.name]
    for lease in worker.leases:
        turn.state.leases.pop(lease, None)
    for name in worker.models:
        model = turn.state.models.get(name)
        if model is not None:
            model.workers.pop(worker.name, None)
            if not model.loadable and not model.workers and not model.waiting:
                del turn.state.models[name]
    turn.do(Gone(worker.name))
