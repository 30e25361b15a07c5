"""The worker's own counters, under vLLM's names where the meaning is the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from daemon.engines.base import EngineStats
from daemon.metrics import Histogram, number

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


@dataclass
class WorkerMetrics:
    finished: Counter[str] = field(default_factory=Counter)
    """Completions by finish reason."""
    first_token: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    latency: Histogram = field(default_factory=lambda: Histogram(_SECONDS))

    def text(self, model: str, stats: EngineStats) -> str:
        """Prometheus' text format 0.0.4."""
        label = '{model_name="' + model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"}'
        lines: list[str] = []
        for name, kind, help_text, value in (
            ("vllm:num_requests_running", "gauge", "Completions that run on the engine.", stats.running),
            ("vllm:num_requests_waiting", "gauge", "Completions that wait for the engine.", stats.waiting),
            ("vllm:kv_cache_usage_perc", "gauge", "Share of the KV cache in use, 0 to 1.", stats.kv_used),
            ("vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", stats.prompt_tokens),
            ("vllm:generation_tokens_total", "counter", "Tokens generated.", stats.generated_tokens),
            ("fcd_worker_memory_bytes", "gauge", "Memory that the engine holds.", stats.memory_bytes),
        ):
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name}{label} {number(value)}"]
        name = "vllm:request_success_total"
        lines += [f"# HELP {name} Completions that ended.", f"# TYPE {name} counter"]
        for reason, count in sorted(self.finished.items()):
            lines.append(f'{name}{label[:-1]},finished_reason="{reason}"}} {count}')
        for name, help_text, histogram in (
            ("vllm:time_to_first_token_seconds", "From request to first token.", self.first_token),
            ("vllm:e2e_request_latency_seconds", "From request to last token.", self.latency),
        ):
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} histogram", *histogram.lines(name)]
        return "\n".join(lines) + "\n"
