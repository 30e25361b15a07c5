"""A worker does not outlive the process that started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_GRACE_S = 3.0


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent ends; elsewhere the end of stdin does."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It ended between the two calls, and nothing will tell us again.
        os._exit(1)


def watch_stdin(on_end: Callable[[], object]) -> threading.Thread:
    """Call `on_end` (from a thread) when stdin ends, and leave at the latest a few seconds later."""

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass
        on_end()
        time.sleep(_GRACE_S)
        os._exit(1)

    thread = threading.Thread(target=watch, name="fcd-parent", daemon=True)
    thread.start()
    return thread
