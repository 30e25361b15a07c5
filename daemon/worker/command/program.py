"""The worker program around a command: starts it, waits until it is healthy, registers it, ends with it."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from daemon.access import is_loopback
from daemon.worker.address import url_for
from daemon.worker.child.process import free_port
from daemon.worker.child.program import ChildProgram
from daemon.worker.child.server import ChildServer
from daemon.worker.command.spec import CommandSpec
from daemon.worker.options import WorkerOptions
from daemon.worker.report import Reporter
from fcd.wire.controller import FcdExtension


class CommandProgram(ChildProgram):
    """One worker whose engine is a program of its own."""

    def __init__(
        self, options: WorkerOptions, spec: CommandSpec, *, names: list[str], reporter: Reporter, comment_s: float
    ) -> None:
        super().__init__(options, names=names, reporter=reporter, comment_s=comment_s, stop_signal=spec.stop_signal)
        self._spec = spec

    async def _load_model(self) -> None:
        """Start the command and wait for its health.

        Raises:
            ModelLoadError: it ended before it was healthy; with its last lines.
        """
        host = self.options.host
        port = free_port(host)
        url = url_for(host if host not in ("0.0.0.0", "::") else "127.0.0.1", port)
        argv = self._spec.argv(host=host, port=port, name=self.worker.names[0], key=self.options.api_key)
        server = ChildServer(url, self.options.api_key, self._spec.health)
        ended = await self._start_server(argv, self._spec.environment(self.options.api_key), server)
        await server.look(self.worker.names[0])
        self._serve_from(server, ended)

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
            capabilities=["vision"] if self._sees() else [],
            served_as=server.model if server.model not in self.worker.names else "",
        )

    def _sees(self) -> bool:
        said = self._spec.vision
        return self._serving.ready().sees if said is None else said

    def _reachable(self, url: str) -> str:
        """The command's port on the address that controllers reach this worker at."""
        if self.options.host not in ("0.0.0.0", "::"):
            return url
        return url_for(urlsplit(self.address).hostname or "127.0.0.1", urlsplit(url).port or 0)

    def _ready(self) -> None:
        url = self._serving.ready().url
        self._reporter.ready(self.address, f"{', '.join(self.worker.names)} is ready at {url}.")
