"""A controller on a real port, with fake workers that are real processes."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2 as httpx
import psutil

from daemon.app import build_app
from daemon.context import DaemonContext
from daemon.controller.controller import Controller, config_of
from daemon.flow import FlowProtocol
from daemon.gateway.active import ActiveRequests
from daemon.metrics import Metrics
from daemon.scheduler import Config
from daemon.security import Security
from daemon.store.store import Store
from daemon.supervisor import process
from daemon.supervisor.memory import MemoryProbe
from daemon.supervisor.process import OnEvent, OnExit, Process
from daemon.supervisor.supervisor import Timing
from fcd.paths import resolve_paths
from fcd.settings import Settings

T = TypeVar("T")

FAKE = Path(__file__).resolve().parent.parent / "fake_worker.py"
FAST = Timing(probe_s=0.2, probe_timeout_s=0.5, suspect_probe_s=0.1, first_probe_s=0.02)


class FakeSpawn:
    """Starts the fake program in place of fcd, with the same arguments, environment and process group."""

    def __init__(self, **environment: str) -> None:
        self.environment = environment
        self.commands: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.pids: list[int] = []

    async def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: IO[bytes],
        on_event: OnEvent,
        on_exit: OnExit,
    ) -> Process:
        self.commands.append(list(command))
        self.environments.append(env)
        run = command.index("run")
        fake = [sys.executable, "-S", str(FAKE), *command[run + 1 :]]
        started = await process.spawn(
            fake, env={**env, **self.environment}, cwd=cwd, log=log, on_event=on_event, on_exit=on_exit
        )
        self.pids.append(started.pid)
        return started


class Daemon:
    """What a test holds."""

    def __init__(self, controller: Controller, url: str, security: Security, spawn: FakeSpawn) -> None:
        self.controller = controller
        self.url = url
        self.security = security
        self.spawn = spawn
        self.http = httpx.AsyncClient(base_url=url, timeout=10, trust_env=False)
        self.admin = {"Authorization": f"Bearer {security._admin_token}"}

    async def join_token(self) -> dict[str, str]:
        token, _ = await self.security.create("token", name="test", scope="join")
        return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def running(
    home: Path,
    *,
    config: Config | None = None,
    timing: Timing = FAST,
    spawn: FakeSpawn | None = None,
    memory: MemoryProbe | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[Daemon]:
    settings = settings or Settings()
    settings.daemon.port = 0
    paths = resolve_paths({"FCD_HOME": str(home)})
    paths.create()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    store = Store.open(paths.database)
    security = await Security.open(settings.daemon, store, paths)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    context = DaemonContext(settings, paths, store, security, Metrics(), ActiveRequests(), url=url)
    fake = spawn or FakeSpawn()
    controller = Controller(
        context, spawn=fake, memory=memory or dict, config=config or config_of(settings.daemon), timing=timing
    )
    context.controller = controller
    app = build_app(context)
    server = await app.create_server(sock=listener, protocol=FlowProtocol, return_asyncio_server=True)
    assert server is not None
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await controller.start()
    daemon = Daemon(controller, url, security, fake)
    try:
        yield daemon
    finally:
        await controller.close()
        await daemon.http.aclose()
        for closer in context.closers:
            await closer()
        server.close()  # type: ignore[no-untyped-call]
        await server.wait_closed()  # type: ignore[no-untyped-call]
        await store.close()
        if paths.sockets != paths.runtime:
            with suppress(OSError):
                paths.sockets.rmdir()
        for pid in fake.pids:
            assert not is_running(pid), f"process {pid} was left behind"


async def until(condition: Callable[[], T], *, within: float = 15.0, what: str = "") -> T:
    """The condition's first true value; fails when there is none in time."""
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what or condition}"
        await asyncio.sleep(0.01)
    return value


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def state_of(daemon: Daemon, name: str = "guide") -> str:
    worker = daemon.controller.supervisor.state.workers.get(name)
    return worker.state if worker is not None else "gone"


def body(answer: httpx.Response) -> Any:
    return answer.json()
