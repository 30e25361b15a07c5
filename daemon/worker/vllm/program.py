"""The worker program around vLLM: starts its server, follows its log, mends what can be mended, watches it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace
from sanic import Blueprint

from daemon.engines.base import EngineStats
from daemon.worker.child.fastchat import fastchat_routes
from daemon.worker.child.process import Child, free_port
from daemon.worker.child.program import ChildProgram, how_it_ended
from daemon.worker.child.server import ChildServer
from daemon.worker.options import WorkerOptions
from daemon.worker.probes import probe_routes
from daemon.worker.program import Locate
from daemon.worker.report import Reporter
from daemon.worker.server import Listeners, new_app
from daemon.worker.vllm.arguments import Plan, make_plan, shorter, smaller
from daemon.worker.vllm.control import Bed, control_routes
from daemon.worker.vllm.failures import Failure, explain
from daemon.worker.vllm.families import read_model_files
from daemon.worker.vllm.group import Follow, Part, interfaces, part_environment
from daemon.worker.vllm.hardware import Hardware, look
from daemon.worker.vllm.relay import Relay, relay_routes
from daemon.worker.vllm.schema import read_fields, read_routes
from daemon.worker.vllm.stages import new_start, read_line
from daemon.worker.vllm.watch import Watch
from fcd import __version__
from fcd.engines import EngineInfo
from fcd.errors import ModelLoadError
from fcd.wire.admin import Progress
from fcd.wire.controller import FcdExtension

_LOG_LINES = 400
"""Kept while it starts: the cause of a failure stands far above its end."""
_MOST_TRIES = 4
_POLL_S = 0.2
_STOP_SIGNAL = 15
_CAPABILITIES = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
_DEV_MODE = {"VLLM_SERVER_DEV_MODE": "1"}
"""Opens the routes for sleeping, among others; all of them on a socket that only this user's processes reach."""


class VllmProgram(ChildProgram):
    """One worker whose model runs in vLLM.

    Args:
        engine: where vLLM is; blocks.
        env: the model's own environment variables, over those of the engine.
        locate: finds, or downloads, the model's folder; blocks.
        sockets: the private folder for vLLM's socket, where no supervisor gave one.
        part: this node's place, the first, in a vLLM over several; who started this tells the others what it reports.
    """

    called = "vLLM"

    def __init__(
        self,
        options: WorkerOptions,
        *,
        names: list[str],
        locate: Locate,
        engine: Callable[[], EngineInfo],
        env: Mapping[str, str],
        sockets: Path,
        reporter: Reporter,
        comment_s: float,
        stall_s: float,
        part: Part | None = None,
    ) -> None:
        super().__init__(options, names=names, reporter=reporter, comment_s=comment_s, stop_signal=_STOP_SIGNAL)
        self._locate_model = locate
        self._engine = engine
        self._env = dict(env)
        self._stall_s = stall_s
        self._part = part
        self._socket = options.socket or str(sockets / f"v-{secrets.token_hex(6)}.sock")
        self._bed = Bed(self._serving)
        self._relay = Relay(self._serving)
        self._routes: list[str] = []
        self._plan = Plan(folder="", names=tuple(names))
        self._start = new_start()
        self._info = EngineInfo("vllm")
        self._machine = Hardware()

    def _blueprints(self) -> list[Blueprint]:
        return [
            fastchat_routes(self._serving),
            relay_routes(self._relay),
            control_routes(self._bed),
            probe_routes(self.worker, metrics=False),
        ]

    def _new_listeners(self) -> Listeners:
        # The socket that the supervisor named is vLLM's own, so that requests go to it without passing here.
        return Listeners(new_app(self.worker, self._blueprints()), replace(self.options, socket=""))

    async def _load_model(self) -> None:
        """Start vLLM, once more where its reason for ending can be mended.

        Raises:
            ModelLoadError: it cannot run here, or ended before it could answer; with the cause and the next step.
        """
        self._progress(Progress("looking for the model"))
        folder = await asyncio.to_thread(self._locate_model, self._progress)
        self._info = await asyncio.to_thread(self._engine)
        if not self._info.runnable:
            raise ModelLoadError(f"vLLM cannot run here. {self._info.reason}")
        self._machine = await asyncio.to_thread(look)
        self._plan = await asyncio.to_thread(self._first_plan, folder)
        for note in self._plan.notes:
            self._reporter.say(note)
        server, ended = await self._start_somehow()
        await server.look(self.worker.names[0])
        described = await server.get("/openapi.json", 30.0)
        self._relay.fields, self._routes = read_fields(described), read_routes(described)
        self._relay.sees = self._plan.sees
        self._bed.possible = self._plan.sleeps
        self._child.lines.clear()
        self._serve_from(server, ended)
        watch = Watch(
            server,
            memory_bytes=self._start.memory_bytes,
            stall_s=self._stall_s,
            on_figures=self._measured,
            on_dead=self._dead,
        )
        await watch.measure()
        self._bed.watch = watch
        self._watching.append(asyncio.create_task(watch.run()))

    def _first_plan(self, folder: Path) -> Plan:
        options = self.options
        if options.model_options.gpus:
            self._machine = _only(self._machine, options.model_options.gpus)
        return make_plan(
            options.model_options,
            read_model_files(folder),
            self._machine,
            folder=folder,
            names=[name for name in self.worker.names if name not in options.model_options.lora_modules],
            concurrency=options.concurrency,
            nodes=self._part.nodes if self._part is not None else 1,
        )

    async def _start_somehow(self) -> tuple[ChildServer, asyncio.Task[int]]:
        mended: set[str] = set()
        for _ in range(_MOST_TRIES):
            server = ChildServer("http://vllm", socket=self._socket)
            try:
                return server, await self._try_to_start(server)
            except _Ended as ended:
                await server.close()
                plan = self._mended(ended.failure, mended)
                if plan is None:
                    raise ModelLoadError(ended.failure.cause, hint=ended.failure.hint) from None
                mended.add(ended.failure.remedy)
                note = plan.notes[-1] if len(plan.notes) > len(self._plan.notes) else "Trying once more."
                self._plan = plan
                self._reporter.say(f"{ended.failure.cause} {note}")
                self._progress(Progress("starting vLLM again", detail=note))
        raise ModelLoadError("vLLM did not start.")

    async def _try_to_start(self, server: ChildServer) -> asyncio.Task[int]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket)
        self._start = new_start()
        self._child = Child(self._wrote, keep=_LOG_LINES)
        env = self._info.env | self._env | (_DEV_MODE if self._plan.sleeps else {})
        if self.options.model_options.gpus and not os.environ.get("CUDA_VISIBLE_DEVICES"):
            env.setdefault("CUDA_VISIBLE_DEVICES", self.options.model_options.gpus)
        part = self._first_of_several()
        if part is not None:
            env |= part_environment(part, os.environ | env, interfaces())
        try:
            return await self._start_server(
                self._plan.argv(self._info.command, self._socket, part), env, server, private=True, program="vLLM"
            )
        except ModelLoadError as error:
            if self._child.code is None:
                raise
            failure = explain(list(self._child.lines), how_it_ended(self._child.code))
            raise _Ended(failure) from error

    def _first_of_several(self) -> Part | None:
        """Have the other nodes start theirs, at a port that is free here now."""
        if self._part is None:
            return None
        part = replace(self._part, port=free_port(self._part.host))
        follow = Follow(part.port, tuple(self._plan.words()), self._info.version)
        self._reporter.follow(msgspec.json.encode(follow).decode())
        return part

    def _mended(self, failure: Failure, before: set[str]) -> Plan | None:
        """Another way to start, each remedy once; None where none is left."""
        if not failure.remedy or failure.remedy in before:
            return None
        if failure.remedy == "shorter":
            asked = self.options.model_options.max_model_len or self._plan.said("--max-model-len")
            return None if asked else shorter(self._plan, int(failure.amount))
        if failure.remedy == "less":
            return smaller(self._plan, failure.amount, self._machine)
        return self._plan

    def _wrote(self, line: str) -> None:
        if self.worker.status == "loading" and read_line(self._start, line):
            self._progress(self._start.stage)

    def _still(self, name: str, line: str) -> None:
        """Only what it writes shows that it goes on: the supervisor gives up a start from which nothing comes."""
        if line:
            self._progress(self._start.stage)

    def _measured(self, stats: EngineStats) -> None:
        self.worker.measured = stats

    def _dead(self, reason: str) -> None:
        if not self._stop.is_set():
            said = explain(list(self._child.lines), "").cause
            self._fail(reason if said.startswith("vLLM ended with") or said in reason else f"{reason} {said}")

    def _died(self, code: int) -> str:
        return str(explain(list(self._child.lines), how_it_ended(code)))

    def _capabilities(self) -> list[str]:
        """What it has routes for, since one that makes embeddings does not chat, and what it was started with."""
        found = [name for route, name in _CAPABILITIES.items() if route in self._routes]
        calls = "--tool-call-parser" in self._plan.flags or self._plan.said("--tool-call-parser")
        sees = ["vision"] if self._plan.sees and "chat" in found else []
        return [*found, *sees, *(["tools"] if calls else []), *(["sleep"] if self._plan.sleeps else [])]

    def _extension(self) -> FcdExtension:
        server = self._serving.ready()
        return FcdExtension(
            openai_url=self.address,
            socket=self.options.socket,
            worker_id=self.options.worker_id,
            pid=os.getpid(),
            engine="vllm",
            device="cuda" if self._machine.gpus else "cpu",
            dtype=self.options.model_options.dtype,
            quantization=self._plan.quantization,
            context_length=server.context_length,
            memory_bytes=self._start.memory_bytes,
            parallel=self._plan.parallel,
            capabilities=self._capabilities(),
            adapters=list(self._plan.adapters),
            version=__version__,
            api_key=self.options.api_key,
            serves=list(dict.fromkeys((server.model, *server.models))),
            fields=self._relay.fields,
            notes=list(self._plan.notes),
        )

    def _ready(self) -> None:
        self._reporter.ready(self.address, f"{', '.join(self.worker.names)} is ready at {self.address}.")

    async def _idle_or(self, limit_s: float) -> None:
        """Requests reach vLLM past this program: it is idle when its own figures say so."""
        await super()._idle_or(limit_s)
        server = self._serving.server
        if server is None or self._bed.watch is None:
            return
        deadline = asyncio.get_running_loop().time() + limit_s
        while not self._now.is_set() and asyncio.get_running_loop().time() < deadline:
            figures = await self._bed.watch.measure()
            if figures is None or not figures.busy:
                return
            await asyncio.sleep(_POLL_S)

    async def _drain(self) -> None:
        await super()._drain()
        self._relay.close()
        with contextlib.suppress(OSError):
            os.unlink(self._socket)


class _Ended(Exception):
    """vLLM ended before it could answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _only(machine: Hardware, gpus: str) -> Hardware:
    wanted = {int(part) for part in gpus.split(",") if part.strip().isdecimal()}
    return machine._replace(gpus=tuple(gpu for gpu in machine.gpus if gpu.number in wanted))
