"""Loads: which models are to be started, when, and whom they wait for."""

from __future__ import annotations

import math

import msgspec

from daemon.scheduler.events import Changed, LoadRefused
from daemon.scheduler.launching import launch, living, remove, rest, spawn, stop
from daemon.scheduler.memory import available, note_base
from daemon.scheduler.placement import CPU, Needs, candidates, plan, shortage, ways
from daemon.scheduler.requests import refuse_waiting, suits
from daemon.scheduler.room import aim_of, leaving
from daemon.scheduler.sleep import lie_down, rise, sleeper, wake_claims, wake_needs
from daemon.scheduler.state import After, Model, Turn, Worker

_COMING = ("starting", "loading", "ready", "stopping")
_ADVICE = "Unload another model (`fcd ps`), or load it with --load-8bit."


def ensure(turn: Turn, model: Model) -> None:
    """See to it that what waits for this model is served, or refuse it with the reason."""
    if not model.waiting and not model.wanted:
        return
    workers = [worker for name in model.workers if _is_awaited(worker := turn.state.workers[name], model)]
    if any(worker.state in _COMING or worker.turning for worker in workers):
        return
    if sleeper(turn.state, model) is not None:
        turn.state.pending[model.name] = None
        place(turn)
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


def _is_awaited(worker: Worker, model: Model) -> bool:
    """Whether it is of use to any of those who wait."""
    if not worker.passes_on or model.wanted:
        return True
    return any(suits(worker, request) for request in model.waiting.values())


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
        rested = sleeper(turn.state, model)
        if rested is None and any(turn.state.workers[each].state == "stopping" for each in model.workers):
            # It is started again when the old process is gone, and keeps its turn until then.
            blocked.update(candidates(model.needs, turn.state.free))
            continue
        needs = model.needs if rested is None else wake_needs(rested)
        aim = aim_of(turn.state, needs, rested)
        if aim is None:
            if not _settling(turn, needs):
                del turn.state.pending[name]
                if rested is None:
                    _refuse_load(turn, model)
                else:  # others have taken its place: it leaves, and is loaded where there is room
                    drain(turn, rested, "remove", by=turn.now)
                continue
            blocked.update(candidates(needs, turn.state.free))
            continue
        wanted = set(candidates(aim, turn.state.free))
        free = available(turn.state)
        claims = plan(aim, {device: -1 if device in blocked else size for device, size in free.items()})
        if claims is not None and not set(claims) & blocked:
            del turn.state.pending[name]
            if rested is None:
                spawn(turn, model, claims)
            else:
                wake(turn, rested)
        elif wanted & blocked:
            blocked |= wanted
        else:
            _make_room(turn, aim, rested)
            blocked |= wanted
    if turn.state.short and not turn.state.pending and not turn.state.stopping:
        _top_up(turn)


def wake(turn: Turn, worker: Worker) -> None:
    """Have it take its GPU memory again, which is there."""
    note_base(turn.state, worker, wake_claims(worker))
    rise(turn, worker)


def _make_room(turn: Turn, needs: Needs, rested: Worker | None) -> None:
    """Have those leave who must; those that can sleep do that instead, where that is enough.

    What one that just lay down gave back may not be seen yet: nobody is sent away for that.
    """
    there = set(candidates(needs, turn.state.free))
    resting = (each for each in turn.state.local_workers() if each.awake and each is not rested)
    fresh = [each.idle_since for each in resting if there & set(each.claims)]
    latest, settle_s = max(fresh, default=float("-inf")), turn.state.config.settle_s
    if turn.now < latest + settle_s or turn.state.read_at <= latest:
        turn.arm("place", "", max(latest, turn.now) + settle_s)
        return
    chosen, lying = leaving(turn.state, needs, rested)
    for worker in chosen:
        if worker.name in lying:
            lie_down(turn, worker)
        else:
            drain(turn, worker, "remove", by=float("inf"))


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


def respawn(turn: Turn, worker: Worker) -> None:
    """Start the worker's process again, where there is room for it now; there is none now.

    Where there is no room it rests until what it gave back must be seen; then it is loaded as any other is, if it is
    wanted still.
    """
    asked = worker.after == "restart"
    worker.state = "stopped"
    for name in worker.models:  # a wish to have it woken is fulfilled by this
        turn.state.pending.pop(name, None)
    model = turn.state.models.get(worker.models[0])
    if model is not None:
        free = available(turn.state)
        found = (plan(way, free) for way in ways(model.needs, free))
        claims = next((claims for claims in found if claims is not None), None)
        if claims is None:
            model.wanted = model.wanted or asked
            _without_place(turn, worker, model)
            return
        worker.claims = claims
    launch(turn, worker)


def _without_place(turn: Turn, worker: Worker, model: Model) -> None:
    until = max((turn.state.last_exit.get(device, 0.0) for device in worker.claims), default=0.0)
    until += turn.state.config.settle_s
    if turn.now < until:
        worker.making_room = True
        worker.after = ""
        rest(turn, worker, until - turn.now)
        return
    free = available(turn.state)
    model.deaths = worker.deaths
    remove(turn, worker)
    if living(turn.state, model):
        turn.state.short[model.name] = None
    elif model.loadable and (model.waiting or model.wanted):
        turn.state.pending[model.name] = None
    else:
        message = f"The worker '{worker.name}' of '{model.name}' did not come back: it takes "
        turn.do(LoadRefused(model.name, f"{message}{shortage(model.needs, free)}. The next request loads it."))
    place(turn)


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
