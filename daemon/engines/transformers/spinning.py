"""Whether idle OpenMP threads spin or sleep while they wait for the next stretch of a step.

Spinning saves the wake-up at each of a step's hundred stretches, about a quarter of a small step; but where another
program wants the cores, a thread that spins keeps the one that it waits for from running, and a step takes ten to a
hundred times as long. GNU's OpenMP reads how long to spin once, at its start; only when it has more threads than there
are cores does it give up after a hundred rounds. So a second pool of threads that merely exists lets them all sleep,
and its end lets them spin again.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import psutil

log = logging.getLogger("fcd.engine")
SPINS = "20000"
"""Rounds before a thread that waits goes to sleep, a fraction of a millisecond: longer than the gap between two
stretches of a step."""
EVERY = 0.25
"""Seconds between two looks at what others use."""
GLANCE = 0.1
"""Seconds that a model being loaded takes to look."""
STALE = 2.0
"""Seconds after which the last look says nothing about now."""
BUSY = 0.4
"""Cores that others use from which on threads sleep: beside half a core spinning gained nothing, beside one a step took
four times as long."""
CALM = 2
"""Looks in a row that must find the machine quiet before threads spin again."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since some fixed moment: of everything that runs here, and of this process."""

    everything: float
    own: float


class Holder(Protocol):
    """Keeps the second pool."""

    def hold(self) -> None: ...

    def release(self) -> None: ...


class Spinning:
    """Lets the threads spin while nothing else wants the cores. Only the thread that computes may call `look`."""

    def __init__(
        self,
        holder: Holder,
        *,
        usage: Callable[[], Usage] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage = usage or current_usage
        self._clock = clock
        self._holder = holder
        self._last: tuple[float, Usage] | None = None
        self._calm = 0
        self.allowed = False
        holder.hold()
        weakref.finalize(self, holder.release)

    def look(self) -> None:
        """Compare what others have used since the last look; to be called before each step, and cheap."""
        now = self._clock()
        if self._last is not None and now - self._last[0] < EVERY:
            return
        usage = self._usage()
        last, self._last = self._last, (now, usage)
        if last is None or now - last[0] > STALE:
            return
        quiet = _others(last[1], usage) < BUSY * (now - last[0])
        self._calm = self._calm + 1 if quiet else 0
        # What is allowed stays so until a look finds others at work.
        self._decide(quiet and (self.allowed or self._calm >= CALM))

    def settle(self) -> None:
        """Decide by one short look, sleeping for it."""
        before, start = self._usage(), self._clock()
        time.sleep(GLANCE)
        self._decide(_others(before, self._usage()) < BUSY * (self._clock() - start))

    def _decide(self, allowed: bool) -> None:
        if allowed != self.allowed:
            self.allowed = allowed
            log.debug("idle threads %s", "spin" if allowed else "sleep")
            if allowed:
                self._holder.release()
            else:
                self._holder.hold()


class SecondPool:
    """A thread with a pool of OpenMP threads of its own, which do nothing."""

    def __init__(self) -> None:
        self._leave: threading.Event | None = None

    def hold(self) -> None:
        if self._leave is None:
            ready, self._leave = threading.Event(), threading.Event()
            threading.Thread(target=_idle, args=(ready, self._leave), name="fcd-idle-pool", daemon=True).start()
            ready.wait()

    def release(self) -> None:
        """The pool goes when its thread ends."""
        if self._leave is not None:
            self._leave.set()
            self._leave = None


def _idle(ready: threading.Event, leave: threading.Event) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(max(2, os.cpu_count() or 1))
        torch.zeros(1 << 18).add_(1.0)
        # The number is also what threads that begin later start with.
        torch.set_num_threads(before)
    finally:
        ready.set()
    leave.wait()


def current_usage() -> Usage:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # A guest's time is in its user's as well.
    counted = sum(times) - idle - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return Usage(counted, time.process_time())


def _others(before: Usage, after: Usage) -> float:
    return (after.everything - before.everything) - (after.own - before.own)


def spin_briefly() -> None:
    """Bound the spinning of OpenMP's idle threads; must run before PyTorch is imported, and leaves the user's own
    choice alone."""
    if not os.environ.get("OMP_WAIT_POLICY"):
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def make_spinning() -> Spinning | None:
    """What decides for this process; None where the user has, or where OpenMP is not GNU's."""
    ours = os.environ.get("GOMP_SPINCOUNT") == SPINS and not os.environ.get("OMP_WAIT_POLICY")
    return Spinning(SecondPool()) if ours and sys.platform == "linux" else None
