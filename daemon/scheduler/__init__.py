"""What to load, evict, place and queue, as a pure function of state and event."""

from __future__ import annotations

from daemon.scheduler.core import decide
from daemon.scheduler.state import Config, Model, State, Worker

__all__ = ["Config", "Model", "State", "Worker", "decide"]
