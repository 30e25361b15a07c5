"""A daemon that tests direct: it answers what it is told, when it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from textual.pilot import Pilot

from fcd.errors import ApiError, FcdError, NotRunning
from fcd.settings import Settings
from fcd.wire.admin import DaemonEvent, DaemonStatus, LoadEvent, LoadRequest, ModelInfo, Progress, WorkerInfo
from fcd.wire.devices import DeviceList, DeviceReading
from fcd.wire.downloads import Download, DownloadRequest
from fcd.wire.neighbours import AttachRequest
from tests.tui.fake_arena import FakeArena, FakeArenaClient
from tests.tui.fake_chats import FakeChats, FakeChatsClient
from tui.app import FcdApp
from tui.link import DaemonClient

GUIDE = WorkerInfo(
    name="guide-0", models=["guide"], state="ready", device="cpu", engine="transformers", context_length=2048,
    memory_bytes=30_000_000, pid=4242,
)  # fmt: skip


class FakeDaemon:
    """What the fake clients talk to. `say` gives the running answer its next piece."""

    def __init__(self) -> None:
        self.up = True
        self.arena = FakeArena()
        self.known = [GUIDE]
        self.catalog = [
            ModelInfo("guide", "builtin", "ready", size_bytes=18_000_000, context_length=2048, default=True),
            ModelInfo("guide-mini", "builtin", size_bytes=5_000_000, context_length=2048),
            ModelInfo("Qwen/Qwen3-0.6B", "cache", size_bytes=1_500_000_000, context_length=40960),
        ]
        self.requests: list[dict[str, Any]] = []
        self.calls: list[tuple[str, str]] = []
        self.logs: dict[str, list[str]] = {"": ["2026-01-02T10:41:02Z INFO daemon ready"]}
        self.load_script: list[LoadEvent] = []
        self.gate: asyncio.Event | None = None
        self.readings: list[DeviceReading] = []
        self.warnings: list[str] = []
        self.bringing: dict[str, Download] = {}
        self._answer: asyncio.Queue[object] = asyncio.Queue()
        self._watchers: list[asyncio.Queue[object]] = []
        self._untold: list[object] = []
        """What was said before anybody watched."""
        self.gone = asyncio.Event()
        self.chats = FakeChats(self)
        self.open_answers = 0

    def say(self, text: str = "", **delta: str) -> None:
        if text:
            delta["content"] = text
        self._answer.put_nowait({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def end(self, tokens: int = 0, prompt_tokens: int = 100, reason: str = "stop") -> None:
        self._answer.put_nowait({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if tokens:
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
            self._answer.put_nowait({"choices": [], "usage": usage})
        self._answer.put_nowait(None)

    def fail(self, error: FcdError) -> None:
        self._answer.put_nowait(error)

    def go(self) -> None:
        """The daemon dies."""
        self.up = False
        self.gone.set()
        self._publish(NotRunning("The daemon does not answer."))
        self.chats.kill()

    def come(self) -> None:
        """It is started again."""
        self.gone = asyncio.Event()
        self.up = True

    def tell(self, event: DaemonEvent) -> None:
        self._publish(event)

    def _publish(self, event: object) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(event)
        if not self._watchers:
            self._untold.append(event)

    async def client(self, address: object = None) -> DaemonClient:
        return FakeClient(self)


class FakeClient(FakeArenaClient, FakeChatsClient):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon
        self._arena = daemon.arena

    def _check(self) -> None:
        if not self._daemon.up:
            raise NotRunning("The daemon does not answer at http://127.0.0.1:8000.")

    async def is_alive(self) -> bool:
        return self._daemon.up

    async def close(self) -> None:
        pass

    async def workers(self) -> list[WorkerInfo]:
        self._check()
        return list(self._daemon.known)

    async def models(self) -> list[ModelInfo]:
        self._check()
        return list(self._daemon.catalog)

    async def status(self) -> DaemonStatus:
        self._check()
        return DaemonStatus(1, "http://127.0.0.1:8000", "0", True, 1.0, self._daemon.known, [], self._daemon.warnings)

    async def devices(self) -> DeviceList:
        self._check()
        return DeviceList(self._daemon.readings)

    async def attach_worker(self, request: AttachRequest) -> WorkerInfo:
        self._daemon.calls.append(("attach", request.url))
        worker = WorkerInfo(request.name or "elsewhere", ["far-model"], "ready", local=False, address=request.url)
        self._daemon.known.append(worker)
        return worker

    async def detach_worker(self, name: str) -> None:
        self._daemon.calls.append(("detach", name))
        self._daemon.known = [worker for worker in self._daemon.known if worker.name != name]

    async def downloads(self) -> list[Download]:
        self._check()
        return list(self._daemon.bringing.values())

    async def download(self, request: DownloadRequest) -> Download:
        self._daemon.calls.append(("download", request.repo))
        made = Download(request.repo, "downloading", Progress("downloading", 6e8, 1.5e9, "B"), 12e6)
        self._daemon.bringing[request.repo] = made
        return made

    async def pause_download(self, repo: str) -> None:
        self._daemon.calls.append(("pause", repo))
        known = self._daemon.bringing[repo]
        self._daemon.bringing[repo] = Download(repo, "paused", known.progress)

    async def cancel_download(self, repo: str) -> None:
        self._daemon.calls.append(("cancel", repo))
        del self._daemon.bringing[repo]

    async def stop_worker(self, name: str) -> None:
        worker = next((worker for worker in self._daemon.known if worker.name == name), None)
        if worker is not None and worker.address.startswith("http://far"):
            raise ApiError(409, f"'{name}' is attached.", code="attached")
        self._daemon.calls.append(("stop", name))

    async def restart_worker(self, name: str) -> None:
        self._daemon.calls.append(("restart", name))

    async def unload(self, model: str) -> None:
        self._daemon.calls.append(("unload", model))

    async def worker_log(self, name: str, lines: int = 200) -> list[str]:
        self._check()
        return self._daemon.logs.get(name, [])[-lines:]

    async def daemon_log(self, lines: int = 200) -> list[str]:
        self._check()
        return self._daemon.logs[""][-lines:]

    async def load(self, request: LoadRequest) -> AsyncIterator[LoadEvent]:
        self._check()
        self._daemon.calls.append(("load", request.model))
        for event in self._daemon.load_script or [LoadEvent("ready", request.model)]:
            yield event
            if self._daemon.gate is not None and event.type == "progress":
                await self._daemon.gate.wait()

    async def watch(self) -> AsyncIterator[DaemonEvent]:
        self._check()
        told: asyncio.Queue[object] = asyncio.Queue()
        for event in self._daemon._untold:
            told.put_nowait(event)
        self._daemon._untold = []
        self._daemon._watchers.append(told)
        try:
            while True:
                event = await told.get()
                if isinstance(event, FcdError):
                    raise event
                assert isinstance(event, DaemonEvent)
                yield event
        finally:
            self._daemon._watchers.remove(told)

    async def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """OpenAI's route: what asks it here wants a few words."""
        self._check()
        self._daemon.requests.append(dict(body))
        while (chunk := await self._daemon._answer.get()) is not None:
            if isinstance(chunk, FcdError):
                raise chunk
            assert isinstance(chunk, dict)
            yield chunk


def make_app(daemon: FakeDaemon, *, settings: Settings | None = None, **options: Any) -> FcdApp:
    """The real app on a fake daemon."""
    app = FcdApp(settings or Settings(), client_factory=daemon.client, **options)
    app.animation_level = "none"
    return app


async def wait_until(pilot: Pilot[None], condition: Callable[[], object], within: float = 30.0) -> None:
    """Let the app work until something is so; fails when it is not in time."""
    deadline = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "not in time"
        await pilot.pause(0.01)


PROGRESS = LoadEvent("progress", "guide", progress=Progress("loading weights", 2, 3, "shards"))
