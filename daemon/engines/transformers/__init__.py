"""The in-process engine over Hugging Face transformers: continuous batching on CPU, CUDA and Metal."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.engines.transformers.spinning import spin_briefly

__all__ = ["load_engine"]

SWITCH_S = 0.0005
"""Seconds; how long one thread keeps the interpreter while another wants it."""

spin_briefly()


async def load_engine(options: LoadOptions, progress: LoadProgress) -> Engine:
    """Load a model and start its engine thread.

    The work happens in a thread of its own, so the event loop goes on answering; a load under way ends when the
    process does. The thread ends after it, and with it the OpenMP threads that it used: more of them than there are
    cores would not spin (see `spinning`).

    Raises:
        ModelLoadError: the model cannot be loaded; the message names the cause and the next step.
    """
    from daemon.engines.transformers.build import build_engine, load_parts

    # After each operator the engine's thread needs Python's lock again, which the event loop keeps for up to so long.
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    loader = ThreadPoolExecutor(1, thread_name_prefix="fcd-load")
    try:
        parts = await asyncio.get_running_loop().run_in_executor(loader, load_parts, options, progress)
    finally:
        loader.shutdown(wait=False)
    return build_engine(parts)
