"""The controller: the Dispatcher of the gateway, and what the routes for people call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sanic import Blueprint

from daemon.cluster.follow import follow_placed
from daemon.cluster.placements import Placements
from daemon.controller.announcer import Announcer
from daemon.controller.attach import Attachments
from daemon.controller.devices import WATCH_S, Devices, OurWorker
from daemon.controller.downloads import Downloads
from daemon.controller.estimates import Estimates
from daemon.controller.fastchat import FastChatView
from daemon.controller.heads import Heads
from daemon.controller.hub import Hub
from daemon.controller.join import Join
from daemon.controller.loads import already, follow_load, served_elsewhere
from daemon.controller.models import Models
from daemon.controller.oneoffs import OneOffs
from daemon.controller.reconfigure import Reconfigure
from daemon.controller.registry import Registry
from daemon.controller.sizes import notes_of
from daemon.controller.snapshot import worker_info
from daemon.controller.specs import Specs
from daemon.scheduler import Config
from daemon.scheduler import events as e
from daemon.scheduler.placement import gpus
from daemon.supervisor.launch import LaunchSpec, worker_name
from daemon.supervisor.logs import log_files, tail
from daemon.supervisor.memory import MachineMemory, MemoryProbe
from daemon.supervisor.probe import HttpProber, Prober
from daemon.supervisor.process import Spawn, spawn
from daemon.supervisor.supervisor import Lease, Supervisor, Timing
from fcd.errors import ApiError
from fcd.settings import MOST_REPLICAS, DaemonSettings, Settings, parse_duration, write_snapshot
from fcd.wire.admin import DaemonEvent, EstimateReply, LoadEvent, LoadRequest, ModelInfo, ModelOptions, WorkerInfo
from fcd.wire.devices import DeviceList

if TYPE_CHECKING:
    from daemon.context import DaemonContext

log = logging.getLogger("fcd.controller")

_GPU_REFRESH_S = 5.0
_GPU_REFRESH_WAITING_S = 1.0
"""While a model waits for memory."""
_TIDY_S = 30.0


class Controller:
    """Who is there, and who gets which request."""

    def __init__(
        self,
        context: DaemonContext,
        *,
        spawn: Spawn = spawn,
        prober: Prober | None = None,
        memory: MemoryProbe | None = None,
        config: Config | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._context = context
        self._timing = timing or Timing()
        self.stall_s = context.settings.daemon.stall_s
        self._machine = MachineMemory()
        self._memory = memory or self._machine
        self._devices = Devices(self._machine, self._our_workers)
        self.hub = Hub()
        self._announcer = Announcer(self)
        self.registry = Registry()
        self.catalog = Models(context.settings, self._has_gpu, lambda: self._machine.totals)
        self.supervisor = Supervisor(
            paths=context.paths,
            tokens=context.security,
            registry=self.registry,
            spawn=spawn,
            prober=prober or HttpProber(self._timing.probe_timeout_s),
            memory=self._memory,
            config=config or config_of(context.settings.daemon, sleep_ttl=context.settings.engines.vllm.sleep_ttl),
            timing=self._timing,
            controller_url=lambda: context.url,
            on_change=self._announcer.changed,
            on_gone=self._announcer.gone,
            use_sockets=hasattr(asyncio, "start_unix_server"),
            totals=lambda: self._machine.totals,
            refresh=self._machine.refresh,
        )
        self.specs = Specs(self.supervisor, self.catalog, context.settings)
        self.heads = Heads(context, self)
        self.placements = Placements(
            context, self.supervisor, self.registry, changed=self._announcer.changed, gone=self._announcer.gone
        )
        self.join = Join(
            self.supervisor, self.registry, self.specs.is_reserved, self.heads.is_above, self.placements.of_token
        )
        self.one_offs = OneOffs(self.supervisor, self.catalog.is_listed, self.specs.aliases)
        self.specs.has_failed, self.specs.give_up = self.one_offs.has_failed, self.one_offs.give_up
        self.fastchat = FastChatView(
            self.supervisor,
            self.registry,
            canonical=lambda name: self.specs.aliases.get(name, name),
            configured=lambda: configured_names(self._context.settings),
        )
        self.attachments = Attachments(context, self.supervisor, self.registry, self.specs.is_reserved)
        self.downloads = Downloads(self._downloaded)
        self._background: list[asyncio.Task[None]] = []
        self._started = False
        self._closing = False

    # Life

    async def start(self) -> None:
        write_snapshot(self._context.paths.worker_settings, self._context.settings)
        await self.placements.start()
        self.supervisor.start()
        await asyncio.gather(self._machine.refresh(), self.catalog.refresh())
        if self._machine.gpus:
            self._background.append(asyncio.get_running_loop().create_task(self._watch_gpus()))
        self._background.append(asyncio.get_running_loop().create_task(self._tidy()))
        self._background.append(asyncio.get_running_loop().create_task(self._tell_devices()))
        await self.attachments.start()
        await self.heads.start()
        preloads = [name for name, model in self._context.settings.models.items() if model.preload]
        self._background.append(asyncio.get_running_loop().create_task(self._preload(preloads)))
        self._started = True

    async def close(self) -> None:
        self._closing = True
        self.downloads.close()
        for task in self._background:
            task.cancel()
        self._announcer.close()
        await self.heads.close()
        await self.placements.close()
        try:
            # The gateway has already waited for the requests that run.
            await self.supervisor.close(0.0)
        finally:
            self.hub.close()

    @property
    def closing(self) -> bool:
        return self._closing

    def not_ready(self) -> list[str]:
        if self._closing:
            return ["The daemon is shutting down."]
        return [] if self._started else ["The controller is starting."]

    async def reconfigure(self, before: Settings) -> None:
        """Act on settings that have changed in place; `before` is how they were."""
        settings = self._context.settings
        write_snapshot(self._context.paths.worker_settings, settings)
        self.stall_s = settings.daemon.stall_s
        sleep_ttl = settings.engines.vllm.sleep_ttl
        config = config_of(settings.daemon, self.supervisor.state.config, sleep_ttl=sleep_ttl)
        self.supervisor.submit(e.Reconfigured(config))
        change = Reconfigure(self, before, settings)
        await change.run(self.specs.aliases)
        await self.catalog.refresh()
        self.hub.publish(DaemonEvent("models"))
        await self._preload(change.added_preloads())

    def announce_config(self, message: str) -> None:
        """Tell watchers what became of a changed config.toml."""
        self.hub.publish(DaemonEvent("config", message=message))

    async def _preload(self, names: list[str]) -> None:
        for name in names:
            try:
                spec = await self._known(name, owner=True)
            except ApiError as error:
                log.error("models.%s cannot be preloaded: %s", name, error.message)
            else:
                self._load(spec, None)

    async def _watch_gpus(self) -> None:
        while True:
            waiting = self.supervisor.state.pending or self.supervisor.state.short
            await asyncio.sleep(_GPU_REFRESH_WAITING_S if waiting else _GPU_REFRESH_S)
            await self._machine.refresh()
            self.supervisor.read_memory(force=True)

    async def _tell_devices(self) -> None:
        """Send readings to those who watch, and read nothing while nobody does."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self.hub.watched:
                try:
                    found = await self._devices.read()
                except Exception:
                    log.exception("the devices could not be read")
                    continue
                self.hub.publish(DaemonEvent("devices", devices=found.devices))

    async def devices(self) -> DeviceList:
        """What each device of this machine is doing, at most a second old."""
        return await self._devices.read()

    def _our_workers(self) -> list[OurWorker]:
        found = []
        for name, local in self.supervisor.local.items():
            worker, record = self.supervisor.state.workers.get(name), self.registry.get(name)
            if worker is not None and local.pid:
                memory = record.gauges.memory_bytes or record.fcd.memory_bytes if record is not None else 0
                found.append(OurWorker(local.pid, memory, tuple(worker.claims)))
        return found

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            self.one_offs.tidy()

    # Dispatch

    async def acquire(
        self,
        model: str,
        *,
        exclude: Collection[str] = (),
        keep_alive: str = "",
        prefixes: Callable[[], tuple[int, ...]] | None = None,
        ends_here: bool = False,
    ) -> Lease:
        """See `daemon.dispatch.Dispatcher`. `keep_alive` holds from the end of this request on."""
        name = self.specs.aliases.get(model, model)
        if not self._is_served(name):
            await self.placements.coming(name)
            if not self._is_served(name):
                name = (await self._known(model, owner=False)).name
        seconds = self.catalog.keep_alive(keep_alive) if keep_alive else None
        state = self.supervisor.state
        begins: tuple[int, ...] = ()
        if prefixes is not None and state.config.dispatch == "prefix_affinity" and len(state.models[name].workers) > 1:
            begins = prefixes()
        try:
            return await self.supervisor.acquire(name, exclude, seconds, begins, ends_here)
        except ApiError as error:
            if error.code == "loop":
                log.warning("daemons pass requests for '%s' round: %s", name, self._passing_on(name))
            raise

    def _passing_on(self, model: str) -> str:
        """The model's workers that may be daemons, with what to do about them, for the log."""
        known = self.supervisor.state.models.get(model)
        found = [self.registry.get(name) for name in known.workers] if known is not None else []
        where = [f"'{record.name}' at {record.url}" for record in found if record is not None and record.passes_on]
        return f"this one ({self._context.url}) would go on to {', '.join(where)}. `fcd worker detach NAME` ends it."

    def models(self) -> list[ModelInfo]:
        """What a request could name: what is listed anyway, and everything else for as long as it would be served."""
        listed = {info.name: info for info in self.catalog.listing()}
        for spec in self.supervisor.specs.values():
            if self.one_offs.serves(spec):
                for name in spec.all_names:
                    parent = spec.name if name in spec.options.lora_modules else ""
                    info = ModelInfo(name, spec.source, path=spec.path, context_length=spec.context_length)
                    listed.setdefault(name, msgspec.structs.replace(info, parent=parent))
        able: dict[str, list[list[str]]] = {}
        for worker in self.workers():
            for name in worker.models:
                if name not in listed and worker.state in ("pending", "failed", "lost", "backoff"):
                    continue
                parent = worker.models[0] if name in worker.adapters else ""
                found = ModelInfo(name, "worker", context_length=worker.context_length, parent=parent)
                info = listed.setdefault(name, found)
                if _RANK[worker.state] > _RANK.get(info.state, 0):
                    info.state = worker.state
                if worker.state in ("ready", "asleep"):
                    able.setdefault(name, []).append(worker.capabilities)
        for name, found_of in able.items():
            # A request goes to any of them, so only what all can do is the model's.
            shared = [each for each in found_of[0] if all(each in other for other in found_of) and each != "sleep"]
            listed[name].capabilities = shared
        return list(listed.values())

    # Workers

    def workers(self) -> list[WorkerInfo]:
        names = dict.fromkeys([*self.supervisor.state.workers, *self.placements.names()])
        return [info for name in names if (info := self.worker(name)) is not None]

    def worker(self, name: str) -> WorkerInfo | None:
        worker = self.supervisor.state.workers.get(name)
        if worker is None:
            return self.placements.shown(name, None)
        info = worker_info(
            self.supervisor.state,
            worker,
            now=self.supervisor.now(),
            record=self.registry.get(name),
            local=self.supervisor.local.get(name),
            spec=self.supervisor.specs.get(worker.models[0]) if worker.local else None,
        )
        return self.placements.shown(name, info)

    async def start_worker(self, request: LoadRequest) -> WorkerInfo:
        """Begin to load; the worker as it is now.

        Raises:
            ApiError: the name means nothing, or there is no room.
        """
        if request.place is not None:
            _replicas(request)
            return await self.placements.place(await self.specs.for_cluster(request), request)
        spec = await self._known(request.model, owner=True, options=request.options)
        self._load(spec, request.options, _replicas(request))
        model = self.supervisor.state.models[spec.name]
        info = next((info for name in model.workers if (info := self.worker(name)) is not None), None)
        if info is None:
            refusal = self.supervisor.refusals.get(spec.name)
            if refusal:
                raise ApiError(503, refusal, code="out_of_memory")
            info = WorkerInfo(name=worker_name(spec.name), models=list(spec.all_names), state="starting")
        info.notes = list(dict.fromkeys([*info.notes, *notes_of(request.options, spec)]))
        return info

    async def load(self, request: LoadRequest) -> AsyncGenerator[LoadEvent | None, None]:
        """Load a model and follow it; None when nothing happened for a while. Leaving does not stop the load.

        Raises:
            ApiError: before the first event, when the name means nothing.
        """
        _refuse_place(request)
        name = self.specs.aliases.get(request.model, request.model)
        if self.placements.has_model(name):
            return follow_placed(self.workers, name, self._context.settings.daemon.sse_comment_s)
        try:
            spec = await self._known(request.model, owner=True, options=request.options)
        except ApiError as error:
            served = served_elsewhere(self, name) if error.status == 404 else None
            if served is None:
                raise
            return already(served)
        # Others may have taken or left GPU memory since the last look.
        await self._machine.refresh()
        return follow_load(self, spec, request, self._context.settings.daemon.sse_comment_s)

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._context.settings

    def begin_load(self, spec: LaunchSpec, request: LoadRequest) -> None:
        self._load(spec, request.options, _replicas(request))

    async def estimate(self, request: LoadRequest) -> EstimateReply:
        """What a load would take and where it would go now.

        Raises:
            ApiError: the name means nothing.
        """
        _refuse_place(request)
        self.supervisor.read_memory(force=True)
        return await Estimates(self.catalog, self.supervisor, self._machine).of(request)

    async def unload(self, model: str) -> None:
        """Raises ApiError: 404 when it is not loaded here."""
        name = self.specs.aliases.get(model, model)
        known = self.supervisor.state.models.get(name)
        if known is None:
            known = self.supervisor.state.models.get((await self._known(model, owner=True)).name)
        if known is None or not any(self.supervisor.state.workers[each].local for each in known.workers):
            raise ApiError(404, f"'{model}' is not loaded here. `fcd ps` lists what is.", code="not_loaded")
        self.supervisor.submit(e.UnloadRequested(known.name))
        self.one_offs.leaves(known.name)

    async def restart(self, name: str) -> None:
        """Raises ApiError: 404, or 409 for a worker that another machine started."""
        if name in self.placements:
            await self.placements.restart(name)
            return
        self._require(name, local=True)
        self.supervisor.read_memory()
        for model in self.supervisor.state.workers[name].models:
            self.one_offs.wanted(model)
        self.supervisor.submit(e.RestartRequested(name))

    async def stop_worker(self, name: str) -> None:
        """Raises ApiError: 404, or 409 for a server that was attached."""
        if name in self.placements:
            await self.placements.stop(name)
            return
        self._require(name, local=False)
        record = self.registry.get(name)
        if record is not None and record.attached:
            raise ApiError(409, f"'{name}' is attached: `fcd worker detach {name}` forgets it.", code="attached")
        worker = self.supervisor.state.workers[name]
        last = [model.name for model in self.supervisor.state.worker_models(worker) if len(model.workers) == 1]
        self.supervisor.submit(e.StopRequested(name))
        if worker.local:
            for model in last:
                self.one_offs.leaves(model)

    async def log_lines(self, name: str, lines: int) -> list[str]:
        """The end of a worker's newest log, also of one that is gone. Raises ApiError 404."""
        if name in self.placements:
            return await self.placements.log_lines(name, lines)
        local = self.supervisor.local.get(name)
        path: Path | None = local.log_path if local is not None else None
        if path is None and name == worker_name(name):
            files = await asyncio.to_thread(log_files, self._context.paths.logs / "workers", name)
            path = files[-1] if files else None
        if path is None:
            raise _no_worker(name)
        return await asyncio.to_thread(tail, path, lines)

    def blueprints(self, context: DaemonContext) -> Sequence[Blueprint]:
        from daemon.controller.api_routes import api_routes
        from daemon.controller.download_routes import download_routes
        from daemon.controller.neighbour_routes import neighbour_routes
        from daemon.controller.wire_routes import wire_routes

        return [wire_routes(self), api_routes(self, context), neighbour_routes(self), download_routes(self)]

    # Inside

    def _downloaded(self) -> None:
        """A model has arrived, or what was begun of one is gone."""

        async def refresh() -> None:
            await self.catalog.refresh()
            self.hub.publish(DaemonEvent("models"))

        self._background = [task for task in self._background if not task.done()]
        if not self._closing:
            self._background.append(asyncio.get_running_loop().create_task(refresh()))

    def _is_served(self, name: str) -> bool:
        """Whether requests for a name are the scheduler's to decide, without looking it up."""
        state = self.supervisor.state
        model = state.models.get(name)
        if model is None:
            return False
        # A model that was withdrawn stays until its last request is done.
        return model.loadable or any(not state.workers[each].local for each in model.workers)

    def _has_gpu(self) -> bool:
        return bool(gpus(self._memory()))

    def _require(self, name: str, *, local: bool) -> None:
        worker = self.supervisor.state.workers.get(name)
        if worker is None:
            raise _no_worker(name)
        if local and not worker.local:
            raise ApiError(409, f"'{name}' was started elsewhere: restart it there.", code="not_local")

    async def _known(self, model: str, *, owner: bool, options: ModelOptions | None = None) -> LaunchSpec:
        return await self.specs.known(model, owner=owner, options=options)

    def _load(self, spec: LaunchSpec, options: ModelOptions | None, replicas: int = 0) -> None:
        keep_alive = options.keep_alive if options is not None else ""
        if spec.name not in self.supervisor.specs:
            self.specs.enter(spec)  # it was unloaded, and forgotten, while somebody was about to load it
        self.one_offs.wanted(spec.name)
        self.supervisor.refusals.pop(spec.name, None)
        self.supervisor.read_memory()
        seconds = self.catalog.keep_alive(keep_alive) if keep_alive else None
        self.supervisor.submit(e.LoadRequested(spec.name, seconds, replicas))


_RANK = {
    "available": 0,
    "pending": 1,
    "lost": 1,
    "stopped": 1,
    "failed": 2,
    "backoff": 3,
    "stopping": 4,
    "starting": 5,
    "loading": 6,
    "asleep": 7,
    "ready": 8,
}


def configured_names(settings: Settings) -> list[str]:
    """The models of config.toml and their adapters."""
    return [*settings.models, *(name for model in settings.models.values() for name in model.adapters)]


def config_of(settings: DaemonSettings, before: Config | None = None, *, sleep_ttl: str = "") -> Config:
    """The scheduler's bounds from the settings; what these do not say stays as it was."""
    before = before or Config()
    return msgspec.structs.replace(
        before,
        max_queue=settings.max_queue,
        max_wait_s=settings.first_byte_s,
        load_stall_s=settings.load_stall_s,
        drain_s=settings.drain_s,
        heartbeat_s=settings.heartbeat_s,
        dispatch=settings.dispatch,
        sleep_ttl_s=parse_duration(sleep_ttl) if sleep_ttl else before.sleep_ttl_s,
    )


def _replicas(request: LoadRequest) -> int:
    if not 0 <= request.replicas <= MOST_REPLICAS:
        raise ApiError(400, f"'replicas' must be between 1 and {MOST_REPLICAS}.", param="replicas")
    return request.replicas


def _refuse_place(request: LoadRequest) -> None:
    if request.place is not None:
        raise ApiError(
            400, "Workers for a cluster are started at POST /api/workers: `fcd worker start --on`.", param="place"
        )


def _no_worker(name: str) -> ApiError:
    return ApiError(404, f"There is no worker '{name[:80]}'. `fcd worker list` lists them.", code="not_found")
