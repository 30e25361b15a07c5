"""The worker program around a command: starts it, waits until it is healthy, registers it, ends with it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from sanic import Blueprint

from daemon.access import is_loopback
from daemon.engines.base import Engine, LoadOptions, LoadProgress
from daemon.worker.address import url_for
from daemon.worker.command.child import Child, free_port
from daemon.worker.command.routes import Serving, command_routes
from daemon.worker.command.server import CommandServer
from daemon.worker.command.spec import CommandSpec
from daemon.worker.options import WorkerOptions
from daemon.worker.probes import probe_routes
from daemon.worker.program import Program
from daemon.worker.report import Reporter
from fcd.errors import ModelLoadError
from fcd.templates import DEFAULT, get_template
from fcd.wire.admin import Progress
from fcd.wire.controller import FcdExtension

_LOOK_S = 0.2
_STILL_S = 10.0
"""How often a start that takes long is said to go on."""
_STOP_GRACE_S = 10.0
_NOT_FOR_COMMANDS = ("FCD_JOIN_TOKEN", "FCD_API_KEY", "FCD_WORKER_KEY", "FCD_PARENT_WATCH")


class CommandProgram(Program):
    """One worker whose engine is a program of its own."""

    def __init__(
        self, options: WorkerOptions, spec: CommandSpec, *, names: list[str], reporter: Reporter, comment_s: float
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
        self._spec = spec
        self._child = Child()
        self._serving = Serving(self.worker, get_template(options.model_options.conv_template or DEFAULT))
        self._watching: asyncio.Task[None] | None = None

    def _blueprints(self) -> list[Blueprint]:
        return [command_routes(self._serving), probe_routes(self.worker)]

    async def _load_model(self) -> None:
        """Start the command and wait for its health.

        Raises:
            ModelLoadError: it ended before it was healthy; with its last lines.
        """
        host = self.options.host
        port = free_port(host)
        url = url_for(host if host not in ("0.0.0.0", "::") else "127.0.0.1", port)
        argv = self._spec.argv(host=host, port=port, name=self.worker.names[0], key=self.options.api_key)
        env = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_COMMANDS}
        self._progress(Progress(f"starting {Path(argv[0]).name}"))
        try:
            await self._child.start(argv, env | self._spec.env)
        except OSError as error:
            raise ModelLoadError(f"{argv[0]} cannot be started: {error}.") from None
        server = CommandServer(url, self.options.api_key, self._spec.health)
        ended = asyncio.create_task(self._child.wait())
        await self._wait_until_healthy(server, ended, Path(argv[0]).name)
        await server.look(self.worker.names[0])
        self._serving.server = server
        self.worker.status = "ok"
        self._watching = asyncio.create_task(self._watch_child(ended))

    async def _wait_until_healthy(self, server: CommandServer, ended: asyncio.Task[int], program: str) -> None:
        shown, said_at = "", 0.0
        loop = asyncio.get_running_loop()
        while not ended.done():
            if await server.is_healthy():
                return
            line = self._child.lines[-1] if self._child.lines else ""
            # A command that writes, or lives, goes on; the supervisor gives up those from which nothing comes.
            if line != shown or loop.time() - said_at > _STILL_S:
                shown, said_at = line, loop.time()
                self._progress(Progress(f"waiting for {program}", detail=line[:200]))
            await asyncio.wait({ended}, timeout=_LOOK_S)
        raise ModelLoadError(self._died(ended.result()))

    async def _watch_child(self, ended: asyncio.Task[int]) -> None:
        code = await ended
        if self._stop.is_set():
            return
        self._failure = self._died(code)
        self.worker.status, self.worker.error = "failed", self._failure
        self._reporter.error(self._failure)
        self.stop_now()

    def _died(self, code: int) -> str:
        how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
        words = self._child.last_words
        return f"The command ended with {how}." + (f" Its last lines:\n{words}" if words else "")

    def _extension(self) -> FcdExtension:
        server = self._serving.ready()
        own = self.options.address
        # Behind another name or port there is no way to the command's own.
        url = server.url if not own or is_loopback(self.options.host) else own
        return FcdExtension(
            openai_url=self._reachable(url),
            worker_id=self.options.worker_id,
            pid=os.getpid(),
            engine="command",
            device="",
            context_length=server.context_length,
            api_key=self.options.api_key,
            served_as=server.model if server.model not in self.worker.names else "",
        )

    def _reachable(self, url: str) -> str:
        """The command's port on the address that controllers reach this worker at."""
        if self.options.host not in ("0.0.0.0", "::"):
            return url
        from urllib.parse import urlsplit

        return url_for(urlsplit(self.address).hostname or "127.0.0.1", urlsplit(url).port or 0)

    def _ready(self) -> None:
        url = self._serving.ready().url
        self._reporter.ready(self.address, f"{', '.join(self.worker.names)} is ready at {url}.")

    async def _drain(self) -> None:
        await super()._drain()
        grace = 0.0 if self._now.is_set() else _STOP_GRACE_S
        await self._child.stop(self._spec.stop_signal, grace)
        for task in filter(None, (self._watching,)):
            task.cancel()
        if self._serving.server is not None:
            await self._serving.server.close()


def _no_folder(progress: Any) -> Path:
    raise AssertionError("a command finds its model itself")


async def _no_engine(options: LoadOptions, progress: LoadProgress) -> Engine:
    raise AssertionError("a command is its own engine")


def with_engine(options: WorkerOptions) -> WorkerOptions:
    return replace(options, model_options=replace(options.model_options, engine="command"))
