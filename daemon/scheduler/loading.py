"""Loads: which models are to be started, where there is room, and what must leave to make it."""

from __future__ import annotations

import math

import msgspec

from daemon.scheduler.affinity import Affinity
from daemon.scheduler.events import Changed, Gone, LoadRefused, Spawn, Stop
from daemon.scheduler.placement import CPU, Claims, Needs, candidates, gpus, plan, shortage, ways
from daemon.scheduler.requests import refuse_waiting
from daemon.scheduler.state import After, Model, State, Turn, Worker

_COMING = ("starting", "loading", "ready", "stopping")
_UNKNOWN = 2**62
"""Room on a device where somebody whose size nobody knows may leave."""


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
    """Start the pending models that fit, in order; make room for those that do not.

    A model that waits for devices keeps them from those behind it, so that each gets its turn.
    """
    blocked: set[str] = set()
    for name in list(turn.state.pending):
        model = turn.state.models.get(name)
        if model is None or turn.state.stopping or not (model.waiting or model.wanted):
            del turn.state.pending[name]
            continue
        aim = _aim(turn.state, model.needs)
        if aim is None:
            if not _settling(turn, model.needs):
                del turn.state.pending[name]
                _refuse_load(turn, model)
                continue
            blocked.update(candidates(model.needs, turn.state.free))
            continue
        wanted = set(candidates(aim, turn.state.free))
        free = available(turn.state)
        claims = plan(aim, {device: -1 if device in blocked else size for device, size in free.items()})
        if claims is not None and not set(claims) & blocked:
            del turn.state.pending[name]
            spawn(turn, model, claims)
        elif wanted & blocked:
            blocked |= wanted
        else:
            for worker in victims(turn.state, aim):
                drain(turn, worker, "remove", by=float("inf"))
            blocked |= wanted
    if turn.state.short and not turn.state.pending and not turn.state.stopping:
        _top_up(turn)


def _top_up(turn: Turn) -> None:
    """Start the replicas that are missing and fit, once the first one works. Nothing is evicted for them."""
    for name in list(turn.state.short):
        model = turn.state.models.get(name)
        lived = living(turn.state, model) if model is not None else []
        if model is None or len(lived) >= model.target:
            del turn.state.short[name]
        elif any(worker.state == "ready" for worker in lived):
            _add_replicas(turn, model, lived)


def _add_replicas(turn: Turn, model: Model, lived: list[Worker]) -> None:
    # A replica in slower memory than the first one's would be no help.
    in_ram = CPU in lived[0].claims
    for _ in range(model.target - len(lived)):
        free = available(turn.state)
        claims = plan(msgspec.structs.replace(model.needs, allow_gpu=not in_ram, allow_cpu=in_ram), free)
        if claims is None:
            lacking = f"'{model.name}' has {len(living(turn.state, model))} of {model.target} workers: another takes "
            lacking += f"{shortage(model.needs, free)}."
            if lacking != model.lacking:
                model.lacking = lacking
                turn.do(LoadRefused(model.name, lacking))
            return
        spawn(turn, model, claims)
    model.lacking = ""
    turn.state.short.pop(model.name, None)


def living(state: State, model: Model) -> list[Worker]:
    """The model's workers that were started here and are not on their way out."""
    found = (state.workers[name] for name in model.workers)
    return [worker for worker in found if worker.local and not (worker.after == "remove" or worker.state == "stopped")]


def available(state: State) -> dict[str, int]:
    """Bytes free on each device once what is loading has taken the rest of its share."""
    free = dict(state.free)
    claimed: Claims = {}
    for worker in state.local_workers():
        if worker.state in ("starting", "loading"):
            for device, size in worker.claims.items():
                claimed[device] = claimed.get(device, 0) + size
    for device, size in claimed.items():
        if device in free:
            taken = max(0, state.base.get(device, free[device]) - free[device])
            free[device] -= max(0, size - taken)
    return free


def _add(free: dict[str, int], claims: Claims, sign: int) -> None:
    for device, size in claims.items():
        if device in free:
            free[device] += sign * size


def _aim(state: State, needs: Needs) -> Needs | None:
    """The first way that would fit if everybody who can leave did; None when there is none."""
    potential = dict(state.free)
    for worker in state.local_workers():
        if worker.state in _COMING:
            _add(potential, {device: size or _UNKNOWN for device, size in worker.claims.items()}, 1)
    return next((way for way in ways(needs, state.free) if plan(way, potential) is not None), None)


def victims(state: State, needs: Needs) -> list[Worker]:
    """Who must leave so that it fits: idle ones first, least recently used first, and no more than it takes.

    Busy ones are among them only when the idle ones are not enough: these finish first. Empty when those that are
    already leaving will do.
    """
    local = state.local_workers()
    free = available(state)
    for worker in local:
        if worker.state == "stopping" or (worker.state == "ready" and worker.draining):
            _add(free, worker.claims, 1)
    if plan(needs, free) is not None:
        return []
    there = set(candidates(needs, state.free))
    able = [each for each in local if each.state == "ready" and not each.draining and there & set(each.claims)]
    chosen: list[Worker] = []
    for worker in sorted(able, key=lambda each: (not each.idle, each.idle_since)):
        chosen.append(worker)
        _add(free, worker.claims, 1)
        if plan(needs, free) is not None:
            return _spared(needs, free, chosen)
    return chosen


def _spared(needs: Needs, free: dict[str, int], chosen: list[Worker]) -> list[Worker]:
    """Those of the chosen without whom it would not fit: with several GPUs some may stand on another."""
    kept = list(chosen)
    for worker in reversed(chosen):
        _add(free, worker.claims, -1)
        if plan(needs, free) is not None:
            kept.remove(worker)
        else:
            _add(free, worker.claims, 1)
    return kept


class Preview(msgspec.Struct, frozen=True):
    """What a load would do now."""

    claims: Claims | None
    """Where it would go; None: it fits nowhere."""
    leaving: tuple[str, ...] = ()
    """Workers that it would have leave."""
    waits: bool = False
    """It would wait: for those to leave, or for busy ones to finish."""
    reason: str = ""
    """Why it fits nowhere."""


def preview(state: State, needs: Needs) -> Preview:
    """What a load with these needs would do, without doing it."""
    aim, free = _aim(state, needs), available(state)
    if aim is None:
        return Preview(None, reason=shortage(needs, free))
    claims = plan(aim, free)
    if claims is not None:
        return Preview(claims)
    chosen = victims(state, aim)
    free = dict(state.free)
    for worker in state.local_workers():
        if worker.state in ("starting", "loading", "stopping") or worker.draining:
            _add(free, worker.claims, 1)
    for worker in chosen:
        _add(free, worker.claims, 1)
    return Preview(plan(aim, free) or {}, tuple(worker.name for worker in chosen), waits=True)


def _settling(turn: Turn, needs: Needs) -> bool:
    """Whether memory that was given back lately may still show up."""
    exits = [turn.state.last_exit.get(device, float("-inf")) for device in candidates(needs, turn.state.free)]
    until = max(exits, default=float("-inf")) + turn.state.config.settle_s
    if turn.now >= until:
        return False
    turn.arm("place", "", until)
    return True


def _refuse_load(turn: Turn, model: Model) -> None:
    message = f"'{model.name}' needs {shortage(model.needs, available(turn.state))}. {_ADVICE}"
    model.wanted = False
    refuse_waiting(turn, model, "out_of_memory", message)
    turn.do(LoadRefused(model.name, message))


_ADVICE = "Unload another model (`fcd ps`), or load it with --load-8bit."


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
    )
    model.target = model.target or max(1, model.replicas)
    turn.state.workers[name] = worker
    turn.state.local[name] = None
    model.workers[name] = None
    if len(living(turn.state, model)) < model.target:
        turn.state.short[model.name] = None
    _launch(turn, worker)
    return worker


def respawn(turn: Turn, worker: Worker) -> None:
    """Start the worker's process again, where there is room for it now; there is none now."""
    worker.state = "stopped"
    model = turn.state.models.get(worker.models[0])
    if model is not None:
        free = available(turn.state)
        found = (plan(way, free) for way in ways(model.needs, free))
        worker.claims = next((claims for claims in found if claims is not None), worker.claims)
    _launch(turn, worker)


def _launch(turn: Turn, worker: Worker) -> None:
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
    _note_base(turn.state, worker)
    chosen = tuple(device for device in worker.claims if device != CPU)
    in_ram = not chosen and bool(gpus(turn.state.free))
    turn.do(Spawn(worker.name, worker.models[0], chosen, in_ram))
    turn.do(Changed(worker.name))


def _note_base(state: State, worker: Worker) -> None:
    """The first to load on a device: what is missing from now on is what loads took."""
    others = (each for each in state.local_workers() if each is not worker and each.state in ("starting", "loading"))
    busy = {device for each in others for device in each.claims}
    for device in worker.claims:
        if device in state.free and device not in busy:
            state.base[device] = state.free[device]


def scale_down(turn: Turn, model: Model) -> None:
    """Let the surplus go: those that do not run first, then idle ones, then those that came last."""
    newest_first = living(turn.state, model)[::-1]
    surplus = max(0, len(newest_first) - model.target)
    for worker in sorted(newest_first, key=lambda each: (each.state in _COMING, not each.idle))[:surplus]:
        drain(turn, worker, "remove", by=float("inf"))


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
