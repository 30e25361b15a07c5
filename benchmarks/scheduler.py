"""Time that the scheduler takes for one event, at growing sizes: `python benchmarks/scheduler.py`.

Each size has workers elsewhere, a fifth as many models and fifty times as many requests; at the largest these are 1,000
workers, 200 models and 50,000 requests, nearly all of which wait at once. Beside them two dozen models take turns on
eight GPUs here, evicting each other. Prints the median and the 99th percentile in microseconds
for each kind of event, as JSON lines, then how much each median grew; fails when one grew faster than the logarithm of
the size.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import defaultdict, deque

from daemon.scheduler import Config, State, decide
from daemon.scheduler import events as e
from daemon.scheduler.placement import Needs

SIZES = (10, 100, 1000)
_GPUS, _HERE = 8, 24
_NOISE_US = 3.0
"""Less than this is the clock and the interpreter."""


class Run:
    """One state and the times of its events."""

    def __init__(self, config: Config) -> None:
        self.state = State(config=config)
        self.took: dict[str, list[float]] = defaultdict(list)
        self.granted: deque[int] = deque()
        self.spawned: deque[str] = deque()
        self.stopped: deque[str] = deque()

    def send(self, event: e.Event, now: float, kind: str = "") -> None:
        began = time.perf_counter()
        self.state, effects = decide(self.state, event, now)
        self.took[kind or type(event).__name__].append(time.perf_counter() - began)
        for effect in effects:
            if isinstance(effect, e.Grant):
                self.granted.append(effect.id)
            elif isinstance(effect, e.Spawn):
                self.spawned.append(effect.worker)
            elif isinstance(effect, e.Stop):
                self.stopped.append(effect.worker)

    def figures(self) -> dict[str, dict[str, float]]:
        return {name: {"median": _at(times, 0.5), "p99": _at(times, 0.99)} for name, times in self.took.items()}


def measure(workers: int, dispatch: str) -> dict[str, object]:
    """Fill the queues, let all be served, then load models in turn."""
    models, requests = max(1, workers // 5), workers * 50
    run = Run(Config(max_queue=requests, dispatch=dispatch))  # type: ignore[arg-type]
    for number in range(workers):
        run.send(e.WorkerJoined(f"w{number}", (f"m{number % models}",), 4), 0.0)
        run.send(e.ProbeAnswered(f"w{number}", True), 0.0)
    prefixed = dispatch == "prefix_affinity"
    for number in range(requests):
        talk = number % (requests // 5)
        prefixes = tuple(hash((part, talk if part else 0)) for part in range(6)) if prefixed else ()
        run.send(e.RequestArrived(number, f"m{number % models}", prefixes=prefixes), 1.0 + number * 1e-6)
    peak = len(run.state.queued)
    for number in range(workers):
        run.send(e.WorkerBeat(f"w{number}", 4), 2.0)
    for number in range(requests - 1, requests - requests // 10, -1):
        run.send(e.RequestCancelled(number), 3.0)
    while run.granted:
        run.send(e.RequestDone(run.granted.popleft()), 4.0)
    assert not run.state.queued
    assert not run.state.leases
    take_turns(run)
    return {"dispatch": dispatch, "workers": workers, "models": models, "waited": peak, "us": run.figures()}


def take_turns(run: Run) -> None:
    """Each model is loaded, used and evicted by another: all that a load costs, beside so many workers elsewhere."""
    free = {"cpu": 0, **{f"GPU-{number}": 100 for number in range(_GPUS)}}
    run.send(e.MemoryRead(free), 5.0)
    for number in range(_HERE):
        needs = Needs(gpu=80, allow_cpu=False)
        run.send(e.ModelDeclared(f"here{number}", f"here{number}", math.inf, needs), 5.0)
    for step in range(10 * _HERE):
        now = 6.0 + step
        run.send(e.RequestArrived(10**9 + step, f"here{step % _HERE}"), now, "RequestArrived, to load")
        while run.stopped:
            name = run.stopped.popleft()
            for device in run.state.workers[name].claims:
                free[device] = 100
            run.send(e.MemoryRead(free), now, "MemoryRead, to load")
            run.send(e.WorkerExited(name, "evicted"), now)
        while run.spawned:
            name = run.spawned.popleft()
            for device in run.state.workers[name].claims:
                free[device] = 20
            run.send(e.MemoryRead(free), now, "MemoryRead, to load")
            run.send(e.WorkerReady(name, 4), now)
        while run.granted:
            run.send(e.RequestDone(run.granted.popleft()), now, "RequestDone, here")


def _at(times: list[float], share: float) -> float:
    return round(sorted(times)[int(len(times) * share)] * 1e6, 2)


def main() -> int:
    failed = False
    for dispatch in ("shortest_queue", "prefix_affinity"):
        found = [measure(size, dispatch) for size in SIZES]
        for each in found:
            print(json.dumps(each), flush=True)
        first, last = found[0]["us"], found[-1]["us"]
        assert isinstance(first, dict)
        assert isinstance(last, dict)
        grew = {name: round(last[name]["median"] / max(first[name]["median"], _NOISE_US), 2) for name in first}
        bound = math.log(SIZES[-1]) / math.log(SIZES[0])
        print(json.dumps({"dispatch": dispatch, "grew": grew, "log_of_the_size_grew": round(bound, 2)}), flush=True)
        failed = failed or any(value > bound for value in grew.values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
