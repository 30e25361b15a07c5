"""Time that the scheduler takes for one event, at growing sizes: `python benchmarks/scheduler.py`.

Each size has workers, a fifth as many models and fifty times as many requests; at the largest these are 1,000 workers,
200 models and 50,000 requests that wait at once. Prints microseconds for each kind of event, as JSON lines.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict

from daemon.scheduler import Config, State, decide
from daemon.scheduler import events as e


def measure(workers: int) -> dict[str, float]:
    """Median microseconds by event, and the number of requests that waited at the peak."""
    models, requests = max(1, workers // 5), workers * 50
    state = State(config=Config(max_queue=requests))
    took: dict[str, list[float]] = defaultdict(list)
    granted: list[int] = []

    def send(event: e.Event, now: float) -> None:
        nonlocal state
        began = time.perf_counter()
        state, effects = decide(state, event, now)
        took[type(event).__name__].append(time.perf_counter() - began)
        granted.extend(effect.id for effect in effects if isinstance(effect, e.Grant))

    for number in range(workers):
        send(e.WorkerJoined(f"w{number}", (f"m{number % models}",), 4), 0.0)
        send(e.ProbeAnswered(f"w{number}", True), 0.0)
    for number in range(requests):
        send(e.RequestArrived(number, f"m{number % models}"), 1.0 + number * 1e-6)
    peak = len(state.queued)
    for number in range(workers):
        send(e.WorkerBeat(f"w{number}", 4), 2.0)
    for number in range(requests - 1, requests - requests // 10, -1):
        send(e.RequestCancelled(number), 3.0)
    while granted:
        send(e.RequestDone(granted.pop(0)), 4.0)
    assert not state.queued
    assert not state.leases
    figures = {name: sorted(values)[len(values) // 2] * 1e6 for name, values in took.items()}
    return {"workers": workers, "waited": peak, **{name: round(value, 2) for name, value in figures.items()}}


def main() -> None:
    for workers in (10, 100, 1000):
        print(json.dumps(measure(workers)), flush=True)


if __name__ == "__main__":
    main()
