"""How much memory nobody was promised: the last reading, less what those that load are still to take of it."""

from __future__ import annotations

from daemon.scheduler.placement import Claims
from daemon.scheduler.sleep import wake_claims
from daemon.scheduler.state import State, Worker


def available(state: State) -> dict[str, int]:
    """Bytes free on each device once what is loading has taken the rest of its share."""
    free = dict(state.free)
    seen, unseen = _claimed(state)
    for device in seen.keys() | unseen.keys():
        if device in free:
            taken = max(0, state.base.get(device, free[device]) - free[device])
            free[device] -= max(0, seen.get(device, 0) - taken) + unseen.get(device, 0)
    return free


def _claimed(state: State, but: Worker | None = None) -> tuple[Claims, Claims]:
    """What is being taken of each device: by those whose part may be missing from the last reading, and by those that
    began after it."""
    seen: Claims = {}
    unseen: Claims = {}
    for worker in state.local_workers():
        if worker is not but:
            _add_up(unseen if worker.unread else seen, _taking(worker))
    return seen, unseen


def _add_up(sums: Claims, claims: Claims) -> None:
    for device, size in claims.items():
        sums[device] = sums.get(device, 0) + size


def settle_base(state: State, but: Worker | None = None) -> None:
    """No more is missing for the sake of loads than those under way can have taken: the rest is somebody else's, and
    must not be credited to the next one. `but` is no longer one of them."""
    seen, _ = _claimed(state, but)
    for device, base in state.base.items():
        if device in state.free:
            state.base[device] = min(base, state.free[device] + seen.get(device, 0))


def _taking(worker: Worker) -> Claims:
    """What it is taking now: all of it while it loads, what it gave back while it wakes. One that is ended meanwhile
    goes on taking until it is gone, and one that is to start again keeps its place."""
    ends = worker.state == "stopping"
    if worker.state in ("starting", "loading") or (ends and (not worker.serving or worker.after == "restart")):
        return worker.awake or worker.claims
    return wake_claims(worker) if worker.turning == "wake" or (ends and worker.awake) else {}


def note_base(state: State, worker: Worker, claims: Claims) -> None:
    """The first to load on a device: what is missing from now on is what loads took."""
    others = (each for each in state.local_workers() if each is not worker)
    busy = {device for each in others for device in _taking(each)}
    for device in claims:
        if device in state.free and device not in busy:
            state.base[device] = state.free[device]
    settle_base(state, worker)
    worker.unread = True
