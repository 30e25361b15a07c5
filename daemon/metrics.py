"""Counters of the gateway, and the text that Prometheus reads. vLLM's metric names where the meaning is the same."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence

from fcd.wire.admin import WorkerInfo
from fcd.wire.devices import DeviceReading

_TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """A Prometheus histogram with fixed bounds, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> Iterable[str]:
        total = 0
        for bound, count in zip((*(str(bound) for bound in self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self.sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """What the gateway counts. Routes are a fixed set, so that the labels are bounded."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.retries = 0
        self.disconnects = 0
        self.first_byte = Histogram(_TTFT_BOUNDS_S)

    def count(self, route: str, status: int) -> None:
        self.requests[route, status] += 1


def prometheus_text(
    metrics: Metrics,
    workers: Sequence[WorkerInfo],
    *,
    running: int,
    uptime_s: float,
    ready: bool,
    devices: Sequence[DeviceReading] = (),
) -> str:
    """Everything in Prometheus' text format 0.0.4."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, samples: Iterable[str]) -> None:
        lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples))

    def simple(name: str, kind: str, text: str, value: float) -> None:
        family(name, kind, text, [f"{name} {number(value)}"])

    simple("fcd_uptime_seconds", "gauge", "Seconds since the daemon started.", round(uptime_s, 3))
    simple("fcd_ready", "gauge", "1 when the daemon can take work.", int(ready))
    simple("fcd_requests_running", "gauge", "Requests that the gateway is relaying now.", running)
    family(
        "fcd_requests_total",
        "counter",
        "Requests that the gateway answered, by route and status.",
        (
            f"fcd_requests_total{_labels(route=route, status=str(status))} {count}"
            for (route, status), count in sorted(metrics.requests.items())
        ),
    )
    simple("fcd_request_retries_total", "counter", "Requests tried on another worker.", metrics.retries)
    simple(
        "fcd_client_disconnects_total", "counter", "Clients that left before their answer ended.", metrics.disconnects
    )
    name = "fcd_first_byte_seconds"
    family(name, "histogram", "Time from request to the worker's first byte.", metrics.first_byte.lines(name))
    for name, kind, text, field in _WORKER_FIGURES:
        samples = (f"{name}{_worker_labels(worker)} {number(getattr(worker, field))}" for worker in workers)
        family(name, kind, text, samples)
    family(
        "fcd_worker_state",
        "gauge",
        "1 for the state that each worker is in.",
        (f"fcd_worker_state{_worker_labels(worker, state=worker.state)} 1" for worker in workers),
    )
    for name, text, field in _DEVICE_FIGURES:
        readings = ((device, getattr(device, field)) for device in devices)
        family(
            name,
            "gauge",
            text,
            (
                f"{name}{_labels(device=device.id, name=device.name)} {number(value)}"
                for device, value in readings
                if value is not None
            ),
        )
    return "\n".join(lines) + "\n"


_WORKER_FIGURES = (
    ("vllm:num_requests_running", "gauge", "Requests that run on the engine.", "running"),
    ("vllm:num_requests_waiting", "gauge", "Requests that wait for the engine.", "waiting"),
    ("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1.", "kv_used"),
    ("vllm:prompt_tokens_total", "counter", "Prompt tokens computed since the worker started.", "prompt_tokens"),
    ("vllm:generation_tokens_total", "counter", "Tokens generated since the worker started.", "generated_tokens"),
    ("fcd_worker_tokens_per_second", "gauge", "Tokens that the worker generates per second.", "tokens_per_second"),
    ("fcd_worker_ttft_milliseconds", "gauge", "Median time to first token over the last requests.", "ttft_ms"),
    ("fcd_worker_memory_bytes", "gauge", "Memory that the worker holds.", "memory_bytes"),
    ("fcd_worker_restarts", "gauge", "How often the worker was restarted.", "restarts"),
)


_DEVICE_FIGURES = (
    ("fcd_device_memory_bytes", "The device's memory; of `cpu`, the machine's RAM.", "memory_total"),
    ("fcd_device_memory_free_bytes", "Memory that is free there.", "memory_free"),
    ("fcd_device_memory_ours_bytes", "Memory that this daemon's workers hold there.", "memory_used_by_us"),
    ("fcd_device_utilisation", "How busy it is, 0 to 1.", "utilisation"),
    ("fcd_device_temperature_celsius", "How hot it is.", "temperature"),
    ("fcd_device_power_watts", "What it draws.", "power_w"),
)


def number(value: float) -> str:
    """A sample's value, every digit of it: a rounded counter stands still and jumps."""
    return repr(value)


def _worker_labels(worker: WorkerInfo, **more: str) -> str:
    return _labels(model_name=worker.models[0] if worker.models else "", worker=worker.name, **more)


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
