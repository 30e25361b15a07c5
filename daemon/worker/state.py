"""What the worker's routes share: the model once it is loaded, and what can be said until then."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Literal

from daemon.engines.base import Engine, EngineStats
from daemon.worker.defaults import SamplingDefaults
from daemon.worker.metrics import WorkerMetrics
from daemon.worker.options import WorkerOptions
from daemon.worker.profiles import Profiles
from daemon.worker.prompts import Prompter
from daemon.worker.tokens import TokenTable
from fcd.errors import ApiError
from fcd.settings import Settings
from fcd.wire.admin import Progress

Status = Literal["loading", "ok", "draining", "failed"]
_RETRY_S = 2


@dataclass(frozen=True)
class Model:
    """A model that can answer."""

    engine: Engine
    prompter: Prompter
    tokens: TokenTable
    defaults: SamplingDefaults


@dataclass
class Worker:
    """One worker's state. Only the program changes it; routes read it."""

    options: WorkerOptions
    names: list[str]
    status: Status = "loading"
    progress: Progress = field(default_factory=lambda: Progress("starting"))
    error: str = ""
    model: Model | None = None
    comment_s: float = 10.0
    started_at: float = field(default_factory=time.time)
    fingerprint: str = field(default_factory=lambda: f"fcd_{uuid.uuid4().hex[:10]}")
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    active: int = 0
    """Requests being answered, whatever their route."""
    profiles: Profiles = field(default_factory=lambda: Profiles(Settings()))
    measured: EngineStats | None = None
    """The figures of an engine that is a process of its own, as last read from it."""
    on_dead_engine: Any = None
    """Called with the reason when the engine turns out to be dead."""

    def ready(self) -> Model:
        """The model.

        Raises:
            ApiError: 503 with the reason, while it is loading, draining or failed.
        """
        if self.status == "ok" and self.model is not None:
            return self.model
        raise self.not_ready()

    def not_ready(self) -> ApiError:
        """Why it takes no requests: loading, draining or failed."""
        if self.status == "draining":
            return ApiError(503, "This worker is shutting down.", code="shutting_down", retry_after=_RETRY_S)
        if self.status == "failed":
            return ApiError(503, f"This worker has failed: {self.error}", code="worker_failed")
        done, total = self.progress.done, self.progress.total
        share = f" ({100 * done / total:.0f} %)" if total > 0 else ""
        return ApiError(
            503,
            f"The model '{self.names[0]}' is still loading: {self.progress.stage}{share}. Try again in a moment.",
            code="model_loading",
            retry_after=_RETRY_S,
        )

    def adapter(self, name: str | None) -> str:
        """The adapter that a request's model name means; empty for the model as it is. Aliases are seen through."""
        modules = self.options.model_options.lora_modules
        return self.profiles.plain_name(name, modules) if name is not None and modules else ""

    def parent(self, name: str) -> str | None:
        """The model that an adapter of this name is over."""
        return self.names[0] if name in self.options.model_options.lora_modules else None

    def stats(self) -> EngineStats:
        if self.measured is not None:
            return self.measured
        return self.model.engine.stats() if self.model is not None else EngineStats()

    @property
    def queue_length(self) -> int:
        stats = self.stats()
        return stats.running + stats.waiting
