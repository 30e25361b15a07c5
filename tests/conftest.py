"""Shares the cores out: with several test processes, each gets its part, or their threads wait for each other."""

from __future__ import annotations

import os
import signal

_PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = str(max(1, (os.cpu_count() or 1) // _PROCESSES))

# Read by torch when it is first imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", _THREADS)
os.environ.setdefault("FCD_TORCH_THREADS", _THREADS)


def pytest_sessionstart() -> None:
    """Ctrl-C must reach the programs under test, also where a shell in the background had it ignored for all below."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
