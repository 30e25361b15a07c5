"""Processes of workers: how one is started, given its devices and its cache, and how it is ended and forgotten."""

from __future__ import annotations

from daemon.scheduler.affinity import Affinity
from daemon.scheduler.events import Changed, Gone, Spawn, Stop
from daemon.scheduler.memory import available, note_base
from daemon.scheduler.placement import CPU, Claims, gpus
from daemon.scheduler.state import Model, State, Turn, Worker

_KV_SHARES = {CPU: 0.4}
_KV_SHARE = 0.8
"""How much of what a model leaves free on its device its KV cache may have: RAM is not ours alone."""


def living(state: State, model: Model) -> list[Worker]:
    """The model's workers that were started here and are not on their way out."""
    found = (state.workers[name] for name in model.workers)
    return [worker for worker in found if worker.local and not (worker.after == "remove" or worker.state == "stopped")]


def spawn(turn: Turn, model: Model, claims: Claims) -> Worker:
    """A new worker for this model on these devices."""
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
        claims=claims,
        deaths=model.deaths,
    )
    model.deaths = 0
    model.target = model.target or max(1, model.replicas)
    turn.state.workers[name] = worker
    turn.state.local[name] = None
    model.workers[name] = None
    if len(living(turn.state, model)) < model.target:
        turn.state.short[model.name] = None
    launch(turn, worker)
    return worker


def rest(turn: Turn, worker: Worker, wait: float) -> None:
    """Start its process again only after so many seconds."""
    worker.state = "backoff"
    worker.retry_at = turn.now + wait
    turn.arm("retry", worker.name, worker.retry_at)
    turn.do(Changed(worker.name))


def launch(turn: Turn, worker: Worker) -> None:
    """Start its process on the devices that it claims."""
    worker.state = "starting"
    worker.healthy = False
    worker.serving = worker.draining = worker.making_room = worker.sleeps = False
    worker.turning = ""
    worker.awake = {}
    worker.after = ""
    worker.failures = 0
    worker.drain_by = float("inf")
    worker.last_progress = turn.now
    for model in turn.state.worker_models(worker):
        model.wanted = False
    turn.arm("stall", worker.name, turn.now + turn.state.config.load_stall_s)
    note_base(turn.state, worker, worker.claims)
    kv_bytes = _grant_kv(turn.state, worker)
    chosen = tuple(device for device in worker.claims if device != CPU)
    in_ram = not chosen and bool(gpus(turn.state.free))
    turn.do(Spawn(worker.name, worker.models[0], chosen, in_ram, dict(worker.claims), kv_bytes))
    turn.do(Changed(worker.name))


def _grant_kv(state: State, worker: Worker) -> int:
    """Bytes of KV cache for a worker on one device, out of what nobody was promised; 0 leaves it to the worker."""
    worker.kv = 0
    model = state.models.get(worker.models[0])
    if model is None or not model.needs.kv or len(worker.claims) != 1:
        return 0
    ((device, claim),) = worker.claims.items()
    if device not in state.free:
        return 0
    promised = sum(max(0, each.kv - each.claims.get(device, 0)) for each in _others_on(state, worker, device))
    room = available(state)[device] - promised
    budget = max(model.needs.kv, int(_KV_SHARES.get(device, _KV_SHARE) * max(0, room + model.needs.kv)))
    worker.kv = claim + budget - model.needs.kv
    return budget


def _others_on(state: State, worker: Worker, device: str) -> list[Worker]:
    return [each for each in state.local_workers() if each is not worker and each.kv and list(each.claims) == [device]]


def stop(turn: Turn, worker: Worker, *, grace_s: float | None = None) -> None:
    """End the process now; `worker.after` says what follows."""
    worker.state = "stopping"
    worker.turning = ""
    worker.healthy = False
    turn.do(Stop(worker.name, turn.state.config.stop_grace_s if grace_s is None else grace_s))
    turn.do(Changed(worker.name))


def remove(turn: Turn, worker: Worker) -> None:
    """Forget the worker."""
    del turn.state.workers[worker.name]
    turn.state.local.pop(worker.name, None)
    for lease in worker.leases:
        turn.state.leases.pop(lease, None)
    for name in worker.models:
        model = turn.state.models.get(name)
        if model is not None:
            model.workers.pop(worker.name, None)
            if worker.local and not living(turn.state, model):
                model.target = 0
                model.lacking = ""
                model.affinity = Affinity()
                turn.state.short.pop(name, None)
            if not model.loadable and not model.workers and not model.waiting:
                del turn.state.models[name]
    turn.do(Gone(worker.name))
