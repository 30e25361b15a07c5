"""Kernels compiled for this machine, or read from where they were kept, where that can be done."""

from __future__ import annotations

import importlib
import logging
import threading

from daemon.engines.transformers.kernels.team import Team, find_team
from fcd.machine import compiles_kernels

_lock = threading.Lock()
"""Where compiled code is kept is a setting of the whole process."""
log = logging.getLogger("fcd.engine")


def load_kernel(name: str, *kinds: str) -> tuple[Team, int] | None:
    """The team that runs it, and the address of what one of this package's modules compiles for numbers of some kinds.

    The first time on a machine takes seconds. None where numba or PyTorch's threads cannot be had: PyTorch's own
    operators do the same then.
    """
    if not compiles_kernels():
        log.info("no compiled kernels: this processor or system is none that they are for")
        return None
    try:
        team = find_team()
        if team is None:
            log.info("no compiled kernels: PyTorch's threads are not of an OpenMP library that can be entered")
            return None
        from daemon.engines.transformers.kernels.compiling import keep_in, prepare

        with _lock:
            prepare(team)
            keep_in("-".join([name, *kinds]))
            module = importlib.import_module(f"daemon.engines.transformers.kernels.{name}")
            return team, int(module.compiled(*kinds).address)
    except ImportError as error:
        log.info("no compiled kernels: %s", error)
        return None
    except Exception:
        log.warning("the kernel %s cannot be compiled here for %s", name, kinds, exc_info=True)
        return None
