"""The scheduler's bounds."""

from __future__ import annotations

from typing import Literal

import msgspec


class Config(msgspec.Struct, frozen=True):
    """The bounds. Times are in seconds."""

    max_queue: int = 256
    max_wait_s: float = 600.0
    """Longest wait for a busy worker; a load that makes progress may take longer."""
    load_stall_s: float = 300.0
    drain_s: float = 30.0
    stop_grace_s: float = 10.0
    heartbeat_s: float = 90.0
    backoff_base_s: float = 10.0
    backoff_max_s: float = 300.0
    max_deaths: int = 5
    probe_failures: int = 3
    stable_s: float = 60.0
    """A worker that served this long has earned a clean record."""
    lost_keep_s: float = 3600.0
    """How long a lost worker stays in the table."""
    settle_s: float = 5.0
    """How long freed memory may take to be seen as free."""
    sleep_ttl_s: float = 1800.0
    """How long a worker sleeps before it is unloaded; at 0 none is put to sleep."""
    dispatch: Literal["shortest_queue", "lottery", "prefix_affinity"] = "shortest_queue"
