"""The daemon's life: lock, socket, parts, signals, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from sanic import Sanic

from daemon.app import build_app
from daemon.context import ControllerPort, DaemonContext
from daemon.gateway.active import ActiveRequests
from daemon.gateway.front import FrontProtocol
from daemon.logs import configure_logging
from daemon.metrics import Metrics
from daemon.reload import Reloader
from daemon.security import Security
from daemon.server import DaemonApp
from daemon.store.store import Store
from fcd import __version__
from fcd.errors import EXIT_OK, FcdError
from fcd.instance import Instance, InstanceLock, remove_record, write_record
from fcd.paths import Paths
from fcd.settings import Settings

log = logging.getLogger("fcd.daemon")

_BACKLOG = 1024
_CUT_S = 2.0
"""How long answers that were cut may take to say so."""

_CLOSE_S = 2.0

MakeController = Callable[[DaemonContext], ControllerPort]


def run_daemon(
    settings: Settings, paths: Paths, *, detached: bool = False, reload: Callable[[], Settings] | None = None
) -> int:
    """Run until SIGTERM or SIGINT; returns the exit code. `reload` reads the settings again when config.toml changes.

    Raises:
        AlreadyRunning: another daemon holds the lock of these folders.
        FcdError: the port is taken, the database unusable, or it would listen beyond this machine without a key.
    """
    paths.create()
    lock = InstanceLock.acquire(paths)
    try:
        paths.pidfile.unlink(missing_ok=True)
        colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        configure_logging(paths.daemon_log, settings.daemon.log_level, on_terminal=not detached, colour=colour)
        with bind(settings.daemon.host, settings.daemon.port) as listener:
            _run(_live(settings, paths, listener, _controller, reload))
        return EXIT_OK
    except FcdError as error:
        log.error("%s", error.message)
        raise
    except Exception:
        log.critical("the daemon failed", exc_info=True)
        raise
    finally:
        remove_record(paths, os.getpid())
        paths.admin_token.unlink(missing_ok=True)
        paths.worker_settings.unlink(missing_ok=True)
        if paths.sockets != paths.runtime:
            with contextlib.suppress(OSError):  # somebody else's file keeps it
                paths.sockets.rmdir()
        lock.release()


def bind(host: str, port: int) -> socket.socket:
    """A listening address of our own. Port 0 lets the system choose.

    Raises:
        FcdError: it cannot be had, with who has it where that is known.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise _cannot_listen(host, port, error) from error


def url_of(listener: socket.socket) -> str:
    """How this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def open_context(settings: Settings, paths: Paths, url: str, make_controller: MakeController) -> DaemonContext:
    """The daemon's parts, ready to be served; close the store when done."""
    store = Store.open(paths.database)
    try:
        context = DaemonContext(
            settings=settings,
            paths=paths,
            store=store,
            security=await Security.open(settings.daemon, store, paths),
            metrics=Metrics(),
            active=ActiveRequests(),
            url=url,
        )
        context.controller = make_controller(context)
    except BaseException:
        await store.close()
        raise
    return context


class Server:
    """The app on its socket."""

    def __init__(self, context: DaemonContext, listener: socket.socket) -> None:
        self.context = context
        self.app: DaemonApp = build_app(context)
        self._listener = listener
        self._server: Any = None

    async def start(self) -> None:
        # Sanic's advice to its developers on a terminal; a person who runs fcd can do nothing with it.
        os.environ.setdefault("SANIC_IGNORE_PRODUCTION_WARNING", "1")
        self._server = await self.app.create_server(
            sock=self._listener,
            protocol=FrontProtocol,
            backlog=_BACKLOG,
            return_asyncio_server=True,
            asyncio_server_kwargs={"start_serving": False},
        )
        await self._server.startup()
        await self._server.before_start()
        await self._server.start_serving()
        await self._server.after_start()

    async def close(self) -> None:
        """Close the listener and every connection; idle ones at once, the others after a moment."""
        for closer in self.context.closers:
            try:
                await closer()
            except Exception:
                log.error("a part did not close", exc_info=True)
        if self._server is None:
            self._listener.close()
            Sanic.unregister_app(self.app)
            return
        self._server.server.close()
        connections = self._server.connections
        for connection in list(connections):
            connection.close_if_idle()
        deadline = time.monotonic() + _CLOSE_S
        while connections and time.monotonic() < deadline:
            for connection in list(connections):
                connection.close()
            await asyncio.sleep(0.02)
        for connection in list(connections):
            connection.abort()
        Sanic.unregister_app(self.app)


async def _live(
    settings: Settings,
    paths: Paths,
    listener: socket.socket,
    make_controller: MakeController,
    reload: Callable[[], Settings] | None = None,
) -> None:
    stop = Stop()
    stop.listen()
    context = await open_context(settings, paths, url_of(listener), make_controller)
    server = Server(context, listener)
    watching: asyncio.Task[None] | None = None
    try:
        await server.start()
        write_record(paths, _this_instance(context))
        await context.controller.start()
        if reload is not None:
            reloader = Reloader(context, paths.config_file, reload)
            reloader.listen()
            watching = asyncio.create_task(reloader.run())
        log.info("listening on %s", context.url, extra={"pid": os.getpid(), "version": __version__})
        await stop.first.wait()
        log.info("stopping: %d requests are running", len(context.active))
        await drain(context, stop)
    finally:
        context.draining = True
        if watching is not None:
            watching.cancel()
        await _unless_hurried(context.controller.close(), stop)
        await server.close()
        await context.store.close()
        log.info("stopped")


class Stop:
    """What signals ask for: the first to finish what runs, the second to end now."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self.ask)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.ask))

    def ask(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def drain(context: DaemonContext, stop: Stop) -> None:
    """Refuse new work, wait for what runs up to the limit, then cut it with an error that says so."""
    context.draining = True
    limit = context.settings.daemon.drain_s
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await _unless_hurried(context.active.wait_idle(), stop)
    if len(context.active):
        log.warning("cutting %d requests", len(context.active))
        context.active.cut_all()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CUT_S):
                await context.active.wait_idle()


async def _unless_hurried(work: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Wait for `work`, or for the second signal."""
    task = asyncio.ensure_future(work)
    hurry = asyncio.ensure_future(stop.second.wait())
    try:
        await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        hurry.cancel()
        task.cancel()


def _run(main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _controller(context: DaemonContext) -> ControllerPort:
    from daemon.controller.controller import Controller

    controller: ControllerPort = Controller(context)
    return controller


def _this_instance(context: DaemonContext) -> Instance:
    import psutil

    pid = os.getpid()
    return Instance(pid, context.url, __version__, context.started_at, psutil.Process(pid).create_time())


def _cannot_listen(host: str, port: int, error: OSError) -> FcdError:
    import errno

    if error.errno == errno.EADDRINUSE:
        return FcdError(
            f"Port {port} on {host} is taken{_who_listens(port)}.",
            hint=f"Choose another: `fcd daemon start --port {port + 1}`, FCD_PORT, or daemon.port in config.toml.",
        )
    return FcdError(
        f"The daemon cannot listen on {host}, port {port}: {error.strerror or error}.",
        hint="Check --host and --port, or daemon.host and daemon.port in config.toml.",
    )


def _who_listens(port: int) -> str:
    import psutil

    try:
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid:
                return f" by {psutil.Process(each.pid).name()} (pid {each.pid})"
    except (psutil.Error, OSError):
        pass
    return " by another program"
