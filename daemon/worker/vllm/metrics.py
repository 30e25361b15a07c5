"""vLLM's own figures, read from its /metrics in Prometheus' text format. Pure."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from daemon.engines.base import EngineStats

_SAMPLE: Final = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)", re.ASCII)
_LE: Final = re.compile(r'\ble="([^"]+)"')
_WINDOW_S = 10.0
_TTFT = "vllm:time_to_first_token_seconds_bucket"


@dataclass(frozen=True)
class Figures:
    """One reading; counters since vLLM started, summed over its engines."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: float = 0.0
    """Steps that computed anything."""
    first_tokens: Mapping[float, float] = field(default_factory=dict)
    """Times to the first token: upper bounds in seconds -> how many were at most that."""

    @property
    def busy(self) -> bool:
        return self.running + self.waiting > 0


def read_figures(text: str) -> Figures:
    """What is not there counts as 0."""
    sums: dict[str, float] = {}
    highest: dict[str, float] = {}
    buckets: dict[float, float] = {}
    for line in text.splitlines():
        if not line.startswith("vllm:"):
            continue
        found = _SAMPLE.match(line)
        value = _number(found["value"]) if found is not None else None
        if found is None or value is None:
            continue
        name = found["name"]
        sums[name] = sums.get(name, 0.0) + value
        highest[name] = max(highest.get(name, 0.0), value)
        bound = _LE.search(found["labels"] or "") if name == _TTFT else None
        if bound is not None:
            limit = _number(bound[1], infinite=True)
            if limit is not None:
                buckets[limit] = buckets.get(limit, 0.0) + value
    return Figures(
        running=int(sums.get("vllm:num_requests_running", 0)),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        kv_used=min(1.0, highest.get("vllm:kv_cache_usage_perc", 0.0)),
        prompt_tokens=int(sums.get("vllm:prompt_tokens_total", 0)),
        generated_tokens=int(sums.get("vllm:generation_tokens_total", 0)),
        steps=sums.get("vllm:iteration_tokens_total_count", 0.0),
        first_tokens=dict(sorted(buckets.items())),
    )


class Meter:
    """Readings over time: how many tokens a second, and how long the first one takes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Figures]] = deque()

    def stats(self, figures: Figures, now: float, *, memory_bytes: int) -> EngineStats:
        """The figures as heartbeats carry them. `now`: seconds of a clock that never goes back."""
        self._seen.append((now, figures))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_S:
            self._seen.popleft()
        began, before = self._seen[0]
        passed = now - began
        made = figures.generated_tokens - before.generated_tokens
        return EngineStats(
            running=figures.running,
            waiting=figures.waiting,
            kv_used=figures.kv_used,
            tokens_per_second=max(0.0, made / passed) if passed > 0 else 0.0,
            ttft_ms=1000 * median(figures.first_tokens),
            generated_tokens=figures.generated_tokens,
            prompt_tokens=figures.prompt_tokens,
            memory_bytes=memory_bytes,
        )


def median(buckets: Mapping[float, float]) -> float:
    """The middle of a cumulative histogram, by a straight line within its bucket; 0 where nothing was counted."""
    total = max(buckets.values(), default=0.0)
    if total <= 0:
        return 0.0
    low, below = 0.0, 0.0
    for bound, count in sorted(buckets.items()):
        if count >= total / 2:
            if math.isinf(bound) or count == below:
                return low
            return low + (bound - low) * (total / 2 - below) / (count - below)
        low, below = bound, count
    return low


def _number(text: str, *, infinite: bool = False) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) or (infinite and not math.isnan(value)) else None
