"""Sleep: a worker gives its GPU memory back and keeps its process and, in RAM, its weights: it is back in seconds.

A worker that sleeps is `asleep`; on its way there it is still `ready`, on its way back still `asleep`, and `turning`
says which. It takes no requests meanwhile, and nothing else is asked of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.scheduler.events import Changed, Sleep, Wake
from daemon.scheduler.placement import CPU, Claims, Needs
from daemon.scheduler.state import Model, State, Turn, Worker

RESIDUE_BYTES = 2**30
"""What a process that sleeps keeps of each GPU: its CUDA context, its captured graphs."""


def may_sleep(state: State, worker: Worker, free: Mapping[str, int]) -> bool:
    """Whether it can be put to sleep now; `free` has the bytes of RAM, without an entry for RAM that is not bounded."""
    able = worker.sleeps and worker.state == "ready" and worker.idle and not worker.draining and not worker.turning
    if not able or state.config.sleep_ttl_s <= 0 or not freed_by_sleep(worker):
        return False
    return CPU not in free or rest_of(state, worker) <= free[CPU]


def rest_of(state: State, worker: Worker) -> int:
    """Bytes of RAM that it takes while it sleeps: as declared, else all that it has on GPUs."""
    model = state.models.get(worker.models[0])
    declared = model.needs.rest if model is not None else 0
    return declared or sum(freed_by_sleep(worker).values())


def freed_by_sleep(worker: Worker) -> Claims:
    """What each GPU has again once it sleeps."""
    return {
        device: size - RESIDUE_BYTES for device, size in worker.claims.items() if device != CPU and size > RESIDUE_BYTES
    }


def lie_down(turn: Turn, worker: Worker) -> None:
    worker.turning = "sleep"
    worker.healthy = False
    turn.do(Sleep(worker.name))
    turn.do(Changed(worker.name))


def has_lain_down(turn: Turn, worker: Worker) -> None:
    rest = rest_of(turn.state, worker)
    worker.turning = ""
    worker.state = "asleep"
    worker.idle_since = turn.now
    worker.failures = 0
    worker.awake = dict(worker.claims)
    kept = {device: min(size, RESIDUE_BYTES) for device, size in worker.claims.items() if device != CPU}
    worker.claims = {**kept, CPU: worker.claims.get(CPU, 0) + rest}
    for device in kept:
        turn.state.last_exit[device] = turn.now
    turn.arm("ttl", worker.name, turn.now + turn.state.config.sleep_ttl_s)
    turn.do(Changed(worker.name))


def sleeper(state: State, model: Model) -> Worker | None:
    """A worker of this model that can be woken."""
    found = (state.workers[name] for name in model.workers)
    return next((each for each in found if each.state == "asleep" and not each.turning and not each.draining), None)


def wake_claims(worker: Worker) -> Claims:
    """What it takes of each GPU besides what it kept."""
    return {
        device: max(0, size - worker.claims.get(device, 0)) for device, size in worker.awake.items() if device != CPU
    }


def wake_needs(worker: Worker) -> Needs:
    return Needs(allow_cpu=False, exactly=tuple(wake_claims(worker).items()))


def rise(turn: Turn, worker: Worker) -> None:
    worker.turning = "wake"
    worker.last_progress = turn.now
    turn.do(Wake(worker.name))
    turn.do(Changed(worker.name))


def has_risen(turn: Turn, worker: Worker) -> None:
    worker.state = "ready"
    worker.turning = ""
    worker.claims, worker.awake = worker.awake, {}
    worker.idle_since = turn.now
