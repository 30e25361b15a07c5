"""Room: where a model would fit, and who must leave or sleep for it. Nothing is done here."""

from __future__ import annotations

import msgspec

from daemon.scheduler.memory import available
from daemon.scheduler.placement import CPU, Claims, Needs, candidates, plan, shortage, ways
from daemon.scheduler.sleep import freed_by_sleep, may_sleep, rest_of
from daemon.scheduler.state import State, Worker

_LEAVABLE = ("starting", "loading", "ready", "stopping", "asleep")
_UNKNOWN = 2**62
"""Room on a device where somebody whose size nobody knows may leave."""


def _add(free: dict[str, int], claims: Claims, sign: int) -> None:
    for device, size in claims.items():
        if device in free:
            free[device] += sign * size


def aim_of(state: State, needs: Needs, rested: Worker | None = None) -> Needs | None:
    """The first way that would fit if everybody who can leave did; None when there is none. `rested` is to wake."""
    potential = dict(state.free)
    for worker in state.local_workers():
        if worker.state in _LEAVABLE and worker is not rested:
            _add(potential, {device: size or _UNKNOWN for device, size in worker.claims.items()}, 1)
    return next((way for way in ways(needs, state.free) if plan(way, potential) is not None), None)


def leaving(state: State, needs: Needs, rested: Worker | None = None) -> tuple[list[Worker], set[str]]:
    """Who must leave so that it fits, and which of them (by name) need only sleep."""
    gains = {} if CPU in candidates(needs, state.free) else _sleepers(state, rested)
    chosen, enough = _victims(state, needs, gains, rested)
    if enough or not gains:
        return chosen, {worker.name for worker in chosen if worker.name in gains}
    return _victims(state, needs, {}, rested)[0], set()


def _sleepers(state: State, rested: Worker | None) -> dict[str, Claims]:
    """Those that could be put to sleep, the one that was used longest ago first, with what that frees."""
    free, found = available(state), {}
    for worker in sorted(state.local_workers(), key=lambda each: each.idle_since):
        if worker is not rested and may_sleep(state, worker, free):
            found[worker.name] = freed_by_sleep(worker)
            if CPU in free:
                free[CPU] -= rest_of(state, worker)
    return found


def _victims(state: State, needs: Needs, gains: dict[str, Claims], rested: Worker | None) -> tuple[list[Worker], bool]:
    """Who must leave, and whether that is enough: those that sleep first, then idle ones, least recently used first,
    and no more than it takes. `gains` has those that would only sleep.

    Busy ones are among them only when the idle ones are not enough: these finish first.
    """
    local = [worker for worker in state.local_workers() if worker is not rested]
    free = available(state)
    for worker in local:
        if worker.after == "restart":
            continue
        if worker.state == "stopping" or (worker.state == "ready" and worker.draining):
            _add(free, worker.claims, 1)
        elif worker.turning == "sleep":
            _add(free, freed_by_sleep(worker), 1)
    if plan(needs, free) is not None:
        return [], True
    there = set(candidates(needs, state.free))
    able = [each for each in local if _can_leave(each) and there & set(each.claims)]
    chosen: list[Worker] = []
    for worker in sorted(able, key=lambda each: (not each.idle, each.state != "asleep", each.idle_since)):
        chosen.append(worker)
        _add(free, gains.get(worker.name, worker.claims), 1)
        if plan(needs, free) is not None:
            return _spared(needs, free, chosen, gains), True
    return chosen, False


def _can_leave(worker: Worker) -> bool:
    return worker.state in ("ready", "asleep") and not worker.draining and not worker.turning


def _spared(needs: Needs, free: dict[str, int], chosen: list[Worker], gains: dict[str, Claims]) -> list[Worker]:
    """Those of the chosen without whom it would not fit: with several GPUs some may stand on another."""
    kept = list(chosen)
    for worker in reversed(chosen):
        gain = gains.get(worker.name, worker.claims)
        _add(free, gain, -1)
        if plan(needs, free) is not None:
            kept.remove(worker)
        else:
            _add(free, gain, 1)
    return kept


class Preview(msgspec.Struct, frozen=True):
    """What a load would do now."""

    claims: Claims | None
    """Where it would go; None: it fits nowhere."""
    leaving: tuple[str, ...] = ()
    """Workers that it would have leave."""
    sleeping: tuple[str, ...] = ()
    """Workers that it would put to sleep."""
    waits: bool = False
    """It would wait: for those to leave, or for busy ones to finish."""
    reason: str = ""
    """Why it fits nowhere."""


def preview(state: State, needs: Needs) -> Preview:
    """What a load with these needs would do, without doing it."""
    aim, free = aim_of(state, needs), available(state)
    if aim is None:
        return Preview(None, reason=shortage(needs, free))
    claims = plan(aim, free)
    if claims is not None:
        return Preview(claims)
    chosen, lying = leaving(state, aim)
    free = dict(state.free)
    for worker in state.local_workers():
        if worker.state in ("starting", "loading", "stopping") or worker.draining:
            _add(free, worker.claims, 1)
    for worker in chosen:
        _add(free, freed_by_sleep(worker) if worker.name in lying else worker.claims, 1)
    gone = tuple(worker.name for worker in chosen if worker.name not in lying)
    return Preview(plan(aim, free) or {}, gone, tuple(sorted(lying)), waits=True)
