"""The worker program around a server: starts it, waits until it is healthy, ends with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sanic import Blueprint

from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.worker.child.fastchat import Serving, fastchat_routes
from daemon.worker.child.process import Child
from daemon.worker.child.server import ChildServer
from daemon.worker.options import WorkerOptions
from daemon.worker.probes import probe_routes
from daemon.worker.program import Program
from daemon.worker.report import Reporter
from fcd.errors import ModelLoadError
from fcd.templates import DEFAULT, get_template
from fcd.wire.admin import Progress

_LOOK_S = 0.2
_STILL_S = 10.0
"""How often a start that takes long is said to go on."""
_STOP_GRACE_S = 10.0
NOT_FOR_SERVERS = ("FCD_JOIN_TOKEN", "FCD_API_KEY", "FCD_WORKER_KEY", "FCD_PARENT_WATCH")


class ChildProgram(Program):
    """One worker whose engine is a server of its own."""

    called = "The command"
    """What sentences call the server."""

    def __init__(
        self, options: WorkerOptions, *, names: list[str], reporter: Reporter, comment_s: float, stop_signal: int
    ) -> None:
        super().__init__(
            options,
            names=names,
            locate=_no_folder,
            load=_no_engine,
            load_options=LoadOptions(path=""),
            reporter=reporter,
            comment_s=comment_s,
        )
        self._child = Child(self._wrote)
        self._serving = Serving(self.worker, get_template(options.model_options.conv_template or DEFAULT))
        self._stop_signal = stop_signal
        self._watching: list[asyncio.Task[None]] = []

    def _blueprints(self) -> list[Blueprint]:
        return [fastchat_routes(self._serving), probe_routes(self.worker)]

    def _wrote(self, line: str) -> None:
        """The server wrote a line."""

    async def _start_server(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        server: ChildServer,
        *,
        private: bool = False,
        program: str = "",
    ) -> asyncio.Task[int]:
        """Start it and wait for its health; the task ends with it.

        Raises:
            ModelLoadError: it cannot be started, or ended before it was healthy; with its last lines.
        """
        name = program or Path(argv[0]).name
        self._progress(Progress(f"starting {name}"))
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_FOR_SERVERS}
        try:
            await self._child.start(argv, inherited | dict(env), private=private)
        except OSError as error:
            raise ModelLoadError(f"{argv[0]} cannot be started: {error}.") from None
        ended = asyncio.create_task(self._child.wait())
        await self._wait_until_healthy(server, ended, name)
        return ended

    def _serve_from(self, server: ChildServer, ended: asyncio.Task[int]) -> None:
        """It is healthy: requests may come, and its end is the worker's."""
        self._serving.server = server
        self.worker.status = "ok"
        self._watching.append(asyncio.create_task(self._watch_child(ended)))

    async def _wait_until_healthy(self, server: ChildServer, ended: asyncio.Task[int], name: str) -> None:
        shown, said_at = "", 0.0
        loop = asyncio.get_running_loop()
        while not ended.done():
            if await server.is_healthy():
                return
            line = self._child.lines[-1] if self._child.lines else ""
            # A server that writes, or lives, goes on; the supervisor gives up those from which nothing comes.
            if line != shown or loop.time() - said_at > _STILL_S:
                shown, said_at = line, loop.time()
                self._still(name, line)
            await asyncio.wait({ended}, timeout=_LOOK_S)
        raise ModelLoadError(self._died(ended.result()))

    def _still(self, name: str, line: str) -> None:
        """It is not healthy yet, and wrote this last."""
        self._progress(Progress(f"waiting for {name}", detail=line[:200]))

    async def _watch_child(self, ended: asyncio.Task[int]) -> None:
        code = await ended
        if not self._stop.is_set():
            self._fail(self._died(code))

    def _fail(self, reason: str) -> None:
        """It is of no use any more: say so and leave, to be started again."""
        self._failure = reason
        self.worker.status, self.worker.error = "failed", reason
        self._reporter.error(reason)
        self.stop_now()

    def _died(self, code: int) -> str:
        words = self._child.last_words
        return f"{self.called} ended with {how_it_ended(code)}." + (f" Its last lines:\n{words}" if words else "")

    async def _drain(self) -> None:
        # From here on the server ends because this does, and that is no reason of its own to tell.
        self._stop.set()
        await super()._drain()
        grace = 0.0 if self._now.is_set() else _STOP_GRACE_S
        await self._child.stop(self._stop_signal, grace)
        for task in self._watching:
            task.cancel()
        if self._serving.server is not None:
            await self._serving.server.close()


def how_it_ended(code: int) -> str:
    """A guard's exit code in words."""
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"


def _no_folder(progress: Any) -> Path:
    raise AssertionError("a server finds its model itself")


async def _no_engine(options: LoadOptions, progress: LoadProgress) -> Engine:
    raise AssertionError("a server is its own engine")
