"""The worker program: opens its port, loads, registers, serves, drains."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from sanic import Blueprint

from daemon.engines.base import Engine, GenerationRequest, LoadOptions, LoadProgress, SamplingParams
from daemon.worker.address import announced_address
from daemon.worker.defaults import read_defaults
from daemon.worker.fastchat import fastchat_routes
from daemon.worker.options import WorkerOptions
from daemon.worker.parent import watch_stdin
from daemon.worker.precheck import check_controllers
from daemon.worker.probes import probe_routes
from daemon.worker.profiles import Profiles
from daemon.worker.prompts import Prompter, choose_template
from daemon.worker.registration import Refused, Registration
from daemon.worker.report import Reporter
from daemon.worker.routes import openai_routes
from daemon.worker.server import Listeners, new_app
from daemon.worker.state import Model, Worker
from daemon.worker.tokens import TokenTable
from fcd import __version__
from fcd.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, ApiError, FcdError, ModelLoadError
from fcd.wire.admin import Progress
from fcd.wire.controller import FcdExtension

log = logging.getLogger("fcd.worker")

EngineLoader = Callable[[LoadOptions, LoadProgress], Awaitable[Engine]]
Locate = Callable[[Callable[[Progress], None]], Path]
"""Finds (or downloads) the model's folder; blocks, and runs in a thread."""

_POLL_S = 0.05


class Program:
    """One worker's life, from opening the port to the exit code.

    Args:
        load: makes an engine from a folder; `locate` finds the folder.
    """

    def __init__(
        self,
        options: WorkerOptions,
        *,
        names: list[str],
        locate: Locate,
        load: EngineLoader,
        load_options: LoadOptions,
        reporter: Reporter,
        comment_s: float = 10.0,
        profiles: Profiles | None = None,
    ) -> None:
        self.options = options
        self.worker = Worker(options, names, comment_s=comment_s, on_dead_engine=self._suspect)
        if profiles is not None:
            self.worker.profiles = profiles
        self._locate = locate
        self._load = load
        self._load_options = load_options
        self._reporter = reporter
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._failure = ""
        self._interrupted = False
        self._probe: asyncio.Task[None] | None = None
        self.listeners: Listeners | None = None
        self.address = ""

    async def run(self) -> int:
        """Serve until told to stop; the exit code."""
        self._watch()
        try:
            await self._open()
        except FcdError as error:
            self._reporter.error(str(error))
            return EXIT_FAILED
        serving = asyncio.create_task(self._serve())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        code = EXIT_FAILED if self._failure else EXIT_INTERRUPTED if self._interrupted else EXIT_OK
        if serving.done() and not self._stop.is_set():
            code = self._explain(serving)
        serving.cancel()
        stopping.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)
        await self._drain()
        return code

    def stop(self) -> None:
        """Stop after running requests have ended; said twice, stop now."""
        (self._now if self._stop.is_set() else self._stop).set()

    def stop_now(self) -> None:
        self._stop.set()
        self._now.set()

    def _signalled(self, number: int) -> None:
        # Ctrl-C is how a person ends a worker that serves; one that is still loading never did what it was asked for.
        if number == signal.SIGINT and self.worker.status == "loading":
            self._interrupted = True
        self.stop()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._signalled, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._signalled, number))
        if self.options.watched:
            watch_stdin(partial(loop.call_soon_threadsafe, self.stop_now))

    async def _open(self) -> None:
        self.listeners = self._new_listeners()
        await self.listeners.open()
        self.address = announced_address(self.options, self.listeners.port)

    def _new_listeners(self) -> Listeners:
        return Listeners(new_app(self.worker, self._blueprints()), self.options)

    def _blueprints(self) -> list[Blueprint]:
        return [openai_routes(self.worker), fastchat_routes(self.worker), probe_routes(self.worker)]

    async def _serve(self) -> None:
        """Load, register, beat. Ends by raising only."""
        options = self.options
        if options.controllers and not options.watched:  # a daemon that starts a worker is there
            await check_controllers(options.controllers, self.address, options.join_token, self._reporter.say)
        await self._load_model()
        if not self.options.controllers:
            self._ready()
            await asyncio.Event().wait()
        kept = [self._registration(url) for url in self.options.controllers]
        tasks = [asyncio.create_task(registration.run()) for registration in kept]
        tasks.append(asyncio.create_task(self._when_registered(kept)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _when_registered(self, registrations: list[Registration]) -> None:
        for registration in registrations:
            await registration.registered.wait()
        self._ready()

    def _ready(self) -> None:
        self._reporter.ready(self.address, f"{', '.join(self.worker.names)} is ready at {self.address}.")

    def _registration(self, url: str) -> Registration:
        return Registration(self.worker, url, address=self.address, extension=self._extension(), say=self._reporter.say)

    def _extension(self) -> FcdExtension:
        model = self.worker.ready()
        info = model.engine.info
        return FcdExtension(
            dialect="openai",
            openai_url=self.address,
            socket=self.options.socket,
            worker_id=self.options.worker_id,
            pid=os.getpid(),
            engine="transformers",
            device=info.device,
            dtype=info.dtype,
            quantization=info.quantization,
            context_length=info.context_length,
            memory_bytes=info.memory_bytes,
            parallel=info.parallel,
            capabilities=list(info.capabilities),
            adapters=list(info.adapters),
            version=__version__,
            api_key=self.options.api_key,
        )

    async def _load_model(self) -> None:
        self._progress(Progress("looking for the model"))
        folder = await asyncio.to_thread(self._locate, self._progress)

        def progress(stage: str, done: float, total: float) -> None:
            self._progress(Progress(stage, done, total))

        from msgspec.structs import replace

        engine = await self._load(replace(self._load_options, path=str(folder)), progress)
        asked = self.options.model_options.conv_template
        seq2seq = engine.info.is_encoder_decoder
        template = choose_template(engine.tokenizer, folder, asked, is_encoder_decoder=seq2seq)
        sees = "vision" in engine.info.capabilities
        prompter = Prompter(engine.tokenizer, template, raw=seq2seq and template is None, sees=sees)
        if sees and not prompter.image_mark:
            able = tuple(each for each in engine.info.capabilities if each != "vision")
            why = "its chat template has no place for them"
            engine.info = replace(engine.info, capabilities=able, blind=why)
        self.worker.model = Model(engine, prompter, TokenTable(engine.tokenizer), read_defaults(folder))
        self.worker.status = "ok"

    def _progress(self, progress: Progress) -> None:
        self.worker.progress = progress
        self._reporter.progress(progress)

    def _explain(self, serving: asyncio.Task[None]) -> int:
        """Say why it cannot go on; its own state says so too, for as long as the port is open."""
        error = serving.exception()
        if isinstance(error, Refused | ModelLoadError | FcdError):
            message = str(error)
        else:
            log.error("the worker failed", exc_info=error)
            message = f"{type(error).__name__}: {error}"
        self.worker.status, self.worker.error = "failed", message
        self._reporter.error(message)
        return EXIT_FAILED

    def _suspect(self, reason: str) -> None:
        """An engine that failed a request may be dead: try it once, and leave if it is, to be started again."""
        if self._probe is None and self.worker.status == "ok":
            self._probe = asyncio.create_task(self._try_engine(reason))

    async def _try_engine(self, reason: str) -> None:
        request = GenerationRequest("probe", (0,), SamplingParams(max_tokens=1, temperature=0))
        try:
            async for _ in self.worker.ready().engine.generate(request):
                pass
        except ApiError as error:
            if error.status >= 500:
                self._failure = reason
                self.worker.status, self.worker.error = "failed", reason
                self._reporter.error(reason)
                self.stop_now()
        finally:
            self._probe = None

    async def _drain(self) -> None:
        """Let running requests finish up to the deadline, then end them with an error."""
        worker = self.worker
        if worker.status == "ok":
            worker.status = "draining"
        if worker.active and not self._now.is_set():
            self._reporter.say(f"Stopping: {worker.active} requests may finish within {self.options.drain_s:g} s.")
        await self._idle_or(self.options.drain_s)
        if self.listeners is not None:
            self.listeners.close()
        if worker.model is not None:
            await worker.model.engine.close()
            # What was cut still has its error event to send.
            await self._until(lambda: worker.active == 0, 2.0)
        if self.listeners is not None:
            self.listeners.abort()

    async def _idle_or(self, limit_s: float) -> None:
        await self._until(lambda: self.worker.active == 0 or self._now.is_set(), limit_s)

    async def _until(self, condition: Callable[[], bool], limit_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + limit_s
        while not condition() and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
