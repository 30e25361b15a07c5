"""Shares the cores out: with several test processes, each gets its part, or their threads wait for each other."""

from __future__ import annotations

import os

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(max(1, (os.cpu_count() or 1) // _PROCESSES))

# Read by torch when it is first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
os.environ.setdefault("FCD_TORCH_THREADS", _THREADS)
