"""Loads: which models are to be started, where there is room, and what must leave to make it."""

from __future__ import annotations

import math

import msgspec

from daemon.scheduler.affinity import Affinity
from daemon.scheduler.events import Changed, Gone, LoadRefused, Spawn, Stop
from daemon.scheduler.memory import available, note_base
from daemon.scheduler.placement import CPU, Claims, Needs, candidates, gpus, plan, shortage, ways
from daemon.scheduler.requests import refuse_waiting
from daemon.scheduler.sleep import (
    freed_by_sleep,
    lie_down,
    may_sleep,
    rest_of,
    rise,
    sleeper,
    wake_claims,
    wake_needs,
)
from daemon.scheduler.state import After, Model, State, Turn, Worker

_COMING = ("starting", "loading", "ready", "stopping")
_LEAVABLE = (*_COMING, "asleep")
_KV_SHARES = {CPU: 0.4}
_KV_SHARE = 0.8
"""How much of what a model leaves free on its device its KV cache may have: RAM is not ours alone."""
_UNKNOWN = 2**62
"""Room on a device where somebody whose size nobody knows may leave."""


def ensure(turn: Turn, model: Model) -> None:
    """See to it that what waits for this model is served, or refuse it with the reason."""
    if not model.waiting and not model.wanted:
        return
    workers = [turn.state.workers[name] for name in model.workers]
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
        aim = _aim(turn.state, needs, rested)
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


def living(state: State, model: Model) -> list[Worker]:
    """The model's workers that were started here and are not on their way out."""
    found = (state.workers[name] for name in model.workers)
    return [worker for worker in found if worker.local and not (worker.after == "remove" or worker.state == "stopped")]


def _add(free: dict[str, int], claims: Claims, sign: int) -> None:
    for device, size in claims.items():
        if device in free:
            free[device] += sign * size


def _aim(state: State, needs: Needs, rested: Worker | None = None) -> Needs | None:
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


def victims(state: State, needs: Needs) -> list[Worker]:
    """Who must leave so that it fits; empty when those that are already leaving will do."""
    return leaving(state, needs)[0]


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
    aim, free = _aim(state, needs), available(state)
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
        deaths=model.deaths,
    )
    model.deaths = 0
    model.target = model.target or max(1, model.replicas)
    turn.state.workers[name] = worker
    turn.state.local[name] = None
    model.workers[name] = None
    if len(living(turn.state, model)) < model.target:
        turn.state.short[model.name] = None
    _launch(turn, worker)
    return worker


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
    _launch(turn, worker)


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


def rest(turn: Turn, worker: Worker, wait: float) -> None:
    """Start its process again only after so many seconds."""
    worker.state = "backoff"
    worker.retry_at = turn.now + wait
    turn.arm("retry", worker.name, worker.retry_at)
    turn.do(Changed(worker.name))


def _launch(turn: Turn, worker: Worker) -> None:
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
