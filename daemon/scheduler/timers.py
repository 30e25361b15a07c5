"""What happens because time passed. A timer is only a reason to look: each checks whether its time has really come."""

from __future__ import annotations

import math

from daemon.scheduler import workers
from daemon.scheduler.launching import remove, stop
from daemon.scheduler.loading import drain, place, respawn
from daemon.scheduler.memory import available
from daemon.scheduler.requests import refuse
from daemon.scheduler.sleep import lie_down, may_sleep
from daemon.scheduler.state import Turn, Worker


def fire(turn: Turn, kind: str, name: str) -> None:
    if kind == "wait":
        _wait(turn, name)
    elif kind == "place":
        place(turn)
    else:
        worker = turn.state.workers.get(name)
        if worker is not None:
            _WORKER_TIMERS[kind](turn, worker)


def _wait(turn: Turn, name: str) -> None:
    """Refuse those of a model's queue that have waited too long for it to become free."""
    model = turn.state.models.get(name)
    if model is None or not model.waiting:
        return
    limit = turn.state.config.max_wait_s
    workers_there = [turn.state.workers[each] for each in model.workers]
    coming = any(each.state in ("starting", "loading", "stopping") or each.turning for each in workers_there)
    if not coming:
        for request in list(model.waiting.values()):
            if turn.now >= request.since + limit:
                message = f"'{name}' was busy for {limit:g} s with other requests; try again later."
                refuse(turn, model, request, 503, "overloaded", message, 30)
    if model.waiting:
        oldest = next(iter(model.waiting.values())).since
        turn.arm("wait", name, max(turn.now + max(1.0, limit / 20), oldest + limit))


def _ttl(turn: Turn, worker: Worker) -> None:
    """Idle for long enough: to sleep, where it can; then, or after it has slept for long enough, it leaves."""
    if worker.state == "asleep" and not worker.turning:
        end = worker.idle_since + turn.state.config.sleep_ttl_s
        if turn.now >= end:
            _leave(turn, worker)
        else:
            turn.arm("ttl", worker.name, end)
        return
    if worker.turning:
        return
    if worker.state != "ready" or not worker.local or not worker.idle or worker.draining:
        return
    end = workers.rest_end(turn, worker)
    if turn.now < end:
        turn.arm("ttl", worker.name, end)
    elif worker.keep_alive > 0 and may_sleep(turn.state, worker, available(turn.state)):
        lie_down(turn, worker)
    else:
        _leave(turn, worker)


def _leave(turn: Turn, worker: Worker) -> None:
    for model in turn.state.worker_models(worker):
        model.target = 0
        turn.state.short.pop(model.name, None)
    drain(turn, worker, "remove", by=math.inf)


def _stall(turn: Turn, worker: Worker) -> None:
    """A load is given up when nothing moves, however long it takes otherwise."""
    if worker.state not in ("starting", "loading") or not worker.local:
        return
    limit = turn.state.config.load_stall_s
    if turn.now >= worker.last_progress + limit:
        worker.after = "death"
        worker.error = f"Loading made no progress for {limit:g} s."
        stop(turn, worker, grace_s=0.0)
    else:
        turn.arm("stall", worker.name, worker.last_progress + limit)


def _retry(turn: Turn, worker: Worker) -> None:
    if worker.state == "backoff":
        if turn.now >= worker.retry_at:
            respawn(turn, worker)
        else:
            turn.arm("retry", worker.name, worker.retry_at)


def _drain(turn: Turn, worker: Worker) -> None:
    if worker.draining and worker.state == "ready":
        if turn.now >= worker.drain_by:
            stop(turn, worker)
        else:
            turn.arm("drain", worker.name, worker.drain_by)


def _beat(turn: Turn, worker: Worker) -> None:
    if worker.local or not worker.check_beat or worker.state == "lost":
        return
    limit = turn.state.config.heartbeat_s
    if turn.now >= worker.last_beat + limit:
        workers.lose(turn, worker, f"No heartbeat for {limit:g} s.")
    else:
        turn.arm("beat", worker.name, worker.last_beat + limit)


def _gone(turn: Turn, worker: Worker) -> None:
    if worker.state == "lost":
        models = turn.state.worker_models(worker)
        remove(turn, worker)
        for model in models:
            workers.prune(turn, model)


_WORKER_TIMERS = {
    "ttl": _ttl,
    "stall": _stall,
    "retry": _retry,
    "drain": _drain,
    "beat": _beat,
    "gone": _gone,
}
