"""The in-process engine over Hugging Face transformers: continuous batching on CPU, CUDA and Metal."""

from __future__ import annotations

import asyncio

from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.engines.transformers.threads import wait_without_spinning

__all__ = ["load_engine"]

wait_without_spinning()


async def load_engine(options: LoadOptions, progress: LoadProgress) -> Engine:
    """Load a model and start its engine thread.

    The work happens in a thread of its own, so the event loop goes on answering; a load under way ends when the
    process does.

    Raises:
        ModelLoadError: the model cannot be loaded; the message names the cause and the next step.
    """
    from daemon.engines.transformers.build import build_engine, load_parts

    parts = await asyncio.to_thread(load_parts, options, progress)
    return build_engine(parts)
