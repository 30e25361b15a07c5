"""How commands reach a daemon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fcd.errors import NotRunning

if TYPE_CHECKING:
    from fcd.client import Client
    from fcd.wire.admin import ModelInfo, WorkerInfo


def running_client(timeout_s: float = 30.0) -> Client:
    """A client for the daemon that runs, which is not started; its calls raise NotRunning when there is none."""
    from fcd.client import Client

    return Client(timeout_s=timeout_s)


def starting_client() -> Client:
    """A client for the daemon, which is started when it is not up."""
    from fcd.cli.chatting.session import open_daemon
    from fcd.client import Client
    from fcd.paths import resolve_paths
    from fcd.settings import load_settings

    paths = resolve_paths()
    return Client(open_daemon(paths, load_settings(paths.config_file)))


async def ask_models() -> list[ModelInfo] | None:
    """The daemon's models; None when no daemon runs. With FCD_URL set, no answer is an error."""
    try:
        async with running_client() as client:
            return await client.models()
    except NotRunning:
        if os.environ.get("FCD_URL"):
            raise
        return None


async def ask_workers() -> list[WorkerInfo]:
    """The daemon's workers; none when no daemon runs."""
    try:
        async with running_client() as client:
            return await client.workers()
    except NotRunning:
        return []
