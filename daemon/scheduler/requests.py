"""Requests: who waits, who is granted, who is refused."""

from __future__ import annotations

import math

from daemon.scheduler.events import Changed, Grant, Probe, Refuse
from daemon.scheduler.state import Model, State, Turn, Waiting, Worker

_LEAST_SPEED = 0.001


def eligible(worker: Worker, request: Waiting | None = None) -> bool:
    """Whether it may take one more request now."""
    if worker.state != "ready" or not worker.healthy or worker.draining or worker.turning:
        return False
    if len(worker.leases) >= worker.limit:
        return False
    return request is None or (suits(worker, request) and request.exclude.get(worker.name, -1) < worker.epoch)


def suits(worker: Worker, request: Waiting) -> bool:
    """Whether it may ever take this request."""
    return not (request.ends_here and worker.passes_on)


def goes_round(state: State, model: Model, request: Waiting) -> bool:
    """Whether all that could be done with it is to pass it on, and it has been passed on as often as may be."""
    if model.loadable or not model.workers:
        return False
    return not any(suits(state.workers[name], request) for name in model.workers)


def choose(turn: Turn, model: Model, request: Waiting) -> Worker | None:
    """The worker for this request: least load for its speed, or by lot weighted by speed, or the one that holds the
    cache of how it begins."""
    workers = [turn.state.workers[name] for name in model.workers]
    able = [worker for worker in workers if eligible(worker, request)]
    if not able:
        return None
    if len(able) == 1:
        return able[0]
    if turn.state.config.dispatch == "lottery":
        return turn.state.rng.choices(able, weights=[max(worker.speed, _LEAST_SPEED) for worker in able])[0]
    if request.prefixes and turn.state.config.dispatch == "prefix_affinity":
        loads = {worker.name: len(worker.leases) + worker.elsewhere for worker in able}
        name = model.affinity.prefer(request.prefixes, loads)
        if name:
            return turn.state.workers[name]
    return min(able, key=lambda worker: (len(worker.leases) + worker.elsewhere) / max(worker.speed, _LEAST_SPEED))


def pick(state: State, model_name: str) -> str:
    """The worker whose address a client of FastChat is given; empty when there is none."""
    model = state.models.get(model_name)
    if model is None:
        return ""
    worker = choose(Turn(state, 0.0), model, Waiting(-1, {}, 0.0))
    if worker is not None:
        return worker.name
    others = [state.workers[name] for name in model.workers]
    return next((other.name for other in others if other.state in ("ready", "loading") and not other.draining), "")


def pump(turn: Turn, model: Model) -> None:
    """Grant what can be granted, in order of arrival.

    A request that may not have the only free worker is passed by those behind it, which wait for something else.
    """
    while (match := _first_match(turn, model)) is not None:
        grant(turn, model, *match)


def _first_match(turn: Turn, model: Model) -> tuple[Waiting, Worker] | None:
    for request in model.waiting.values():
        worker = choose(turn, model, request)
        if worker is not None:
            return request, worker
        if not (request.exclude or request.ends_here) or not any(
            eligible(turn.state.workers[name]) for name in model.workers
        ):
            return None
    return None


def grant(turn: Turn, model: Model, request: Waiting, worker: Worker) -> None:
    del model.waiting[request.id]
    del turn.state.queued[request.id]
    turn.state.leases[request.id] = worker.name
    worker.leases.add(request.id)
    if request.keep_alive is not None:
        worker.keep_alive = request.keep_alive
    if request.prefixes:
        model.affinity.note(request.prefixes, worker.name)
    turn.do(Grant(request.id, worker.name))


def refuse(
    turn: Turn, model: Model, request: Waiting, status: int, code: str, message: str, retry_after: int | None = None
) -> None:
    model.waiting.pop(request.id, None)
    turn.state.queued.pop(request.id, None)
    turn.do(Refuse(request.id, status, code, message, retry_after))


def refuse_waiting(turn: Turn, model: Model, code: str, message: str, retry_after: int | None = None) -> None:
    """503 to everybody who waits for this model."""
    for request in list(model.waiting.values()):
        refuse(turn, model, request, 503, code, message, retry_after)


def refuse_if_full(turn: Turn, model: Model, request: Waiting) -> None:
    """429 to the newcomer when the queue is longer than it may be."""
    limit = turn.state.config.max_queue
    if request.id not in model.waiting or len(model.waiting) <= limit:
        return
    slots = sum(turn.state.workers[name].limit for name in model.workers)
    patience = min(60, math.ceil(len(model.waiting) / slots)) if slots else 5
    message = f"{limit} requests already wait for '{model.name}', as many as may; try again in {patience} s."
    refuse(turn, model, request, 429, "overloaded", message, patience)


def suspect(turn: Turn, worker: Worker) -> None:
    """Give it nothing more until a probe succeeds."""
    if worker.state == "ready" and worker.healthy:
        worker.healthy = False
        worker.error = "It failed a request or a probe and is being checked."
        turn.do(Probe(worker.name))
        turn.do(Changed(worker.name))


def drop_leases(turn: Turn, worker: Worker) -> None:
    """Its process is gone, so what it was doing is too."""
    for lease in worker.leases:
        turn.state.leases.pop(lease, None)
    worker.leases.clear()
    worker.elsewhere = worker.surplus = 0
