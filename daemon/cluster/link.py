"""The daemon's side of one cluster agent: starts it, asks it, and ends it when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon.cluster.messages import AgentError, Ask, Launch, Picture, Reply
from daemon.store.placements import Need
from daemon.supervisor.launch import worker_environment
from daemon.supervisor.logs import MAX_BYTES

_CONNECT_S = 25.0
_ASK_S = 40.0
_END_S = 2.0
_LONGEST_LINE = 16 * 2**20

_CLIENT_HINT = (
    "Where the head's logs say that a SpecificServer's startup failed, start the head again with "
    "GRPC_ENABLE_FORK_SUPPORT=0 in its environment."
)
INSTALL = "pip install 'fcd[ray]'"


class Cluster(Protocol):
    """What the placements need of one cluster. Every method raises AgentError."""

    @property
    def connected(self) -> bool: ...

    async def connect(self) -> None: ...

    async def picture(self, actors: list[str], prefix: str) -> Picture: ...

    async def place(self, actor: str, need: Need, launch: Launch, siblings: list[str]) -> None: ...

    async def call(
        self, actor: str, method: Any, *, amount: float = 0.0, launch: Launch | None = None
    ) -> list[str]: ...

    async def remove(self, actor: str) -> None: ...

    async def close(self) -> None: ...


class AgentLink:
    """One agent process at a time, started when it is needed."""

    def __init__(self, cluster: str, *, log: Path, cwd: Path, environ: Mapping[str, str] | None = None) -> None:
        self._cluster = cluster
        self._log = log
        self._cwd = cwd
        self._environ = environ
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._last_id = 0
        self.connected = False

    async def connect(self) -> None:
        """Start an agent and let it connect, unless there is one that has."""
        async with self._turn:
            if self.connected and self._process is not None and self._process.returncode is None:
                return
            await self._end()
            if any(importlib.util.find_spec(name) is None for name in ("ray", "grpc")):
                raise AgentError(
                    "Ray is not installed here.", hint=f"Install it where fcd is: {INSTALL}", code="no_ray"
                )
            try:
                await self._start()
            except OSError as error:
                raise AgentError(f"The cluster agent cannot be started: {error}.") from None
            await self._ask(Ask(self._next(), "connect", cluster=self._cluster), _CONNECT_S)
            self.connected = True

    async def picture(self, actors: list[str], prefix: str) -> Picture:
        reply = await self._tell(Ask(self._next(), "poll", siblings=actors, prefix=prefix))
        return reply.picture or Picture()

    async def place(self, actor: str, need: Need, launch: Launch, siblings: list[str]) -> None:
        await self._tell(Ask(self._next(), "place", actor=actor, need=need, launch=launch, siblings=siblings))

    async def call(self, actor: str, method: Any, *, amount: float = 0.0, launch: Launch | None = None) -> list[str]:
        ask = Ask(self._next(), "call", actor=actor, method=method, amount=amount, launch=launch)
        return (await self._tell(ask)).lines

    async def remove(self, actor: str) -> None:
        await self._tell(Ask(self._next(), "remove", actor=actor))

    async def close(self) -> None:
        async with self._turn:
            await self._end()

    async def _tell(self, ask: Ask) -> Reply:
        async with self._turn:
            return await self._ask(ask, _ASK_S)

    async def _ask(self, ask: Ask, limit_s: float) -> Reply:
        """One line there, one back. An agent that breaks off, or takes too long, is ended; the next connects anew."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise AgentError("The connection to the cluster is lost.", code="cluster_unreachable")
        try:
            async with asyncio.timeout(limit_s):
                process.stdin.write(msgspec.json.encode(ask) + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
            if not line:
                raise ConnectionError
            reply = msgspec.json.decode(line, type=Reply)
        except TimeoutError:
            await self._end()
            client = self._cluster.startswith("ray://")
            raise AgentError(
                f"The cluster {self._cluster} does not answer within {limit_s:g} s.",
                hint=_CLIENT_HINT if client else "",
                code="cluster_unreachable",
            ) from None
        except (OSError, ValueError):
            await self._end()
            raise AgentError(
                f"The connection to the cluster {self._cluster} broke off. The agent's log: {self._log}.",
                code="cluster_unreachable",
            ) from None
        except asyncio.CancelledError:
            # Its answer would be read as the next question's.
            self._kill()
            raise
        if reply.error:
            raise AgentError(reply.error, hint=reply.hint, code=reply.code)
        return reply

    async def _start(self) -> None:
        if self._log.exists() and self._log.stat().st_size > MAX_BYTES:
            self._log.unlink()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        environ = worker_environment("", self._environ)
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "daemon.cluster.agent",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environ,
                cwd=str(self._cwd),
                limit=_LONGEST_LINE,
                **options,
            )

    async def _end(self) -> None:
        """Let it go: its stdin ends, and what does not leave then is killed."""
        self.connected = False
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_END_S):
                await process.wait()
        except TimeoutError:
            _kill(process.pid)
            await process.wait()
        else:
            _kill(process.pid)

    def _kill(self) -> None:
        self.connected = False
        if self._process is not None and self._process.returncode is None:
            _kill(self._process.pid)

    def _next(self) -> int:
        self._last_id += 1
        return self._last_id


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)
