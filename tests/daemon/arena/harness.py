"""A daemon whose models are scripted workers, each with a text and a speed of its own."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanic import Blueprint

from daemon.context import DaemonContext
from daemon.dispatch import Target
from daemon.lifecycle import Server, bind, open_context, url_of
from fcd.client import Address, Client
from fcd.errors import ApiError, model_not_found
from fcd.paths import Paths, resolve_paths
from fcd.settings import Settings
from fcd.wire.admin import ModelInfo, WorkerInfo
from fcd.wire.arena import BattleEvent, BattleInfo
from tests.daemon.harness import STREAM_END, STREAM_HEAD, FakeLease, Received, event, whole, worker


@dataclass
class Script:
    """How one model answers."""

    text: str = "It depends on the question, and on who asks."
    piece: int = 4
    """Characters per chunk."""
    pause: float = 0.0
    """Seconds between chunks."""
    first: float = 0.0
    """Seconds before the first."""
    finish: str = "stop"
    fails: str = ""
    """An error instead of an answer."""
    hold: asyncio.Event | None = None
    """The answer stops in the middle until this is set."""
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = json.loads(request.body)
        if request.path == "/tokenize":
            writer.write(whole("200 OK", json.dumps({"count": len(body["prompt"].split())}).encode()))
            await writer.drain()
            return
        self.asked.append(body)
        if self.fails:
            error = {"error": {"message": self.fails, "type": "server_error", "param": None, "code": "out_of_memory"}}
            writer.write(whole("500 Internal Server Error", json.dumps(error).encode()))
            await writer.drain()
            return
        if not body.get("stream"):
            done = {"model": body["model"], "choices": [{"index": 0, "message": {"content": self.text}}]}
            writer.write(whole("200 OK", json.dumps(done).encode()))
            await writer.drain()
            return
        await self._stream(body, writer)

    async def _stream(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        await asyncio.sleep(self.first)
        pieces = [self.text[start : start + self.piece] for start in range(0, len(self.text), self.piece)]
        for number, piece in enumerate(pieces):
            writer.write(event({"model": body["model"], "choices": [{"index": 0, "delta": {"content": piece}}]}))
            await writer.drain()
            if self.pause:
                await asyncio.sleep(self.pause)
            if self.hold is not None and number == len(pieces) // 2:
                await self.hold.wait()
        last = {"model": body["model"], "choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]}
        writer.write(event(last))
        usage = {"prompt_tokens": 7, "completion_tokens": len(pieces), "total_tokens": 7 + len(pieces)}
        writer.write(event({"model": body["model"], "choices": [], "usage": usage}))
        writer.write(event("[DONE]") + STREAM_END)
        await writer.drain()


@dataclass
class ManyModels:
    """A controller that knows several models, all of them up unless `states` says otherwise."""

    targets: dict[str, Target]
    states: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def workers(self) -> list[WorkerInfo]:
        return []

    def not_ready(self) -> list[str]:
        return []

    def models(self) -> list[ModelInfo]:
        return [ModelInfo(name, "config", self.states.get(name, "ready")) for name in self.targets]

    async def acquire(self, model: str, *, exclude: Collection[str] = (), **_: Any) -> FakeLease:
        if model not in self.targets:
            raise model_not_found(model)
        if model in exclude:
            raise ApiError(503, f"{model} is gone.", code="no_worker")
        return FakeLease(self.targets[model], [])

    def blueprints(self, context: DaemonContext) -> Sequence[Blueprint]:
        return []


@dataclass
class ArenaDaemon:
    url: str
    client: Client
    context: DaemonContext
    controller: ManyModels
    paths: Paths
    scripts: dict[str, Script]

    def someone(self, key: str = "") -> Client:
        """Another client: with a key, or without anything."""
        return Client(Address(self.url, key))


@asynccontextmanager
async def arena_daemon(
    scripts: dict[str, Script], *, home: Path | None = None, **arena_settings: Any
) -> AsyncIterator[ArenaDaemon]:
    settings = Settings()
    for name, value in arena_settings.items():
        setattr(settings.arena, name, value)
    async with AsyncExitStack() as stack:
        folder = str(home) if home is not None else stack.enter_context(tempfile.TemporaryDirectory())
        targets = {}
        for number, (name, script) in enumerate(scripts.items()):
            targets[name] = (await stack.enter_async_context(worker(script, name=f"w{number}"))).target
        paths = resolve_paths({"FCD_HOME": folder})
        paths.create()
        listener = bind("127.0.0.1", 0)
        url = url_of(listener)
        controller = ManyModels(targets)
        context = await open_context(settings, paths, url, lambda _: controller)  # type: ignore[arg-type,return-value]
        server = Server(context, listener)
        await server.start()
        try:
            client = Client(Address(url, paths.admin_token.read_text()))
            async with client:
                yield ArenaDaemon(url, client, context, controller, paths, scripts)
        finally:
            await server.close()
            await context.store.close()


async def to_end(client: Client, battle: str) -> list[BattleEvent]:
    """Every event until the turn is over."""
    async with asyncio.timeout(20):
        return [event async for event in client.battle_events(battle)]


def texts(events: list[BattleEvent], turn: int = 0) -> tuple[str, str]:
    """What was shown of both sides: the first event's state, and what came after."""
    first = events[0].battle
    assert first is not None
    shown = {"a": first.turns[turn].a.text, "b": first.turns[turn].b.text}
    for each in events:
        if each.type == "delta" and each.side is not None:
            shown[each.side] += each.text
    return shown["a"], shown["b"]


def model_of(info: BattleInfo, side: str) -> str:
    return info.model_a if side == "a" else info.model_b
