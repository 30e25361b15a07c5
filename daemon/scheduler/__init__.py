"""What to load, evict, place and queue, as a pure function of state and event."""

from __future__ import annotations

from daemon.scheduler.config import Config
from daemon.scheduler.core import decide
from daemon.scheduler.state import Model, State, Worker

__all__ = ["Config", "Model", "State", "Worker", "decide"]
