"""The daemon's own keeping of chats behind the fake client: the real service and database, with a model that tests
direct."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from daemon.chats import exchange
from daemon.chats.chats import Chats
from daemon.store import chats as records
from daemon.store.store import Store
from fcd.errors import ApiError, FcdError, NotFound, NotRunning
from fcd.paths import resolve_paths
from fcd.wire import chats as wire

if TYPE_CHECKING:
    from tests.tui.fake import FakeDaemon


class FakeChats:
    """`now` is the daemon's clock: every conversation was changed then."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.now = 1.0
        self._folder = tempfile.TemporaryDirectory()
        paths = resolve_paths({"FCD_HOME": self._folder.name})
        paths.create()
        hub = SimpleNamespace(publish=daemon.tell)
        ticks = itertools.count()
        context: Any = SimpleNamespace(
            store=Store.open(Path(self._folder.name) / "fcd.db"),
            clock=lambda: self.now,
            paths=paths,
            controller=SimpleNamespace(hub=hub),
        )
        self.service = Chats(context, asker=Told(daemon), elapsed=lambda: next(ticks) * 0.1)

    async def tree(self) -> wire.ChatTree:
        """The only conversation, or the one changed last."""
        return await self.service.get((await self.service.listed(1, 0)).chats[0].id)

    def kill(self) -> None:
        for live in list(self.service._live.values()):
            live.stop("interrupted")


class Told:
    """A model that says what tests tell it."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    async def ask(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        daemon = self._daemon
        daemon.requests.append(body)
        failed = next((event.error for event in daemon.load_script if event.type == "error"), "")
        if failed:
            raise ApiError(503, failed, code="out_of_memory")
        daemon.open_answers += 1
        try:
            while (chunk := await daemon._answer.get()) is not None:
                if isinstance(chunk, FcdError):
                    raise chunk
                assert isinstance(chunk, dict)
                yield chunk
        finally:
            daemon.open_answers -= 1
            daemon._answer = asyncio.Queue()

    async def close(self) -> None: ...


class FakeChatsClient:
    """Calls the service as the client calls the routes."""

    _daemon: FakeDaemon

    @property
    def _chats(self) -> Chats:
        if not self._daemon.up:
            raise NotRunning("The daemon does not answer at http://127.0.0.1:8000.")
        return self._daemon.chats.service

    async def chats(self, limit: int = 100, offset: int = 0, *, deleted: bool = False) -> wire.ChatList:
        return await self._chats.listed(limit, offset, deleted=deleted)

    async def create_chat(self, asked: wire.CreateChat) -> wire.ChatInfo:
        return await self._chats.create(asked)

    async def chat_tree(self, chat: str) -> wire.ChatTree:
        try:
            return _copied(await self._chats.get(chat))
        except NotFound as error:
            raise ApiError(404, error.message, code="not_found") from None

    async def patch_chat(self, chat: str, asked: wire.PatchChat) -> wire.ChatInfo:
        return await self._chats.patch(chat, asked)

    async def delete_chat(self, chat: str) -> wire.ChatInfo:
        return await self._chats.delete(chat)

    async def restore_chat(self, chat: str) -> wire.ChatInfo:
        return await self._chats.restore(chat)

    async def choose_message(self, chat: str, message: str) -> wire.ChatTree:
        return _copied(await self._chats.choose(chat, message))

    async def search_chats(self, words: str, limit: int = 50) -> wire.ChatHits:
        return await self._chats.search(words, limit)

    async def generate(self, chat: str, asked: wire.GenerateRequest) -> wire.Generation:
        return _copied(await self._chats.generate(chat, asked))

    async def chat_stream(self, chat: str, message: str = "", cursor: str = "") -> AsyncIterator[wire.ChatEvent]:
        events = await self._chats.stream(chat, message, cursor)
        gone = asyncio.ensure_future(self._daemon.gone.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(events, None))
                await asyncio.wait((gone, following), return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    following.cancel()
                    raise NotRunning("The daemon does not answer at http://127.0.0.1:8000.")
                event = following.result()
                if event is None:
                    return
                yield event
        finally:
            gone.cancel()

    async def queue_question(self, chat: str, asked: wire.QueueRequest) -> wire.ChatQueue:
        return _copied(await self._chats.enqueue(chat, asked))

    async def take_back(self, chat: str, question: str = "") -> wire.ChatQueue:
        return _copied(await self._chats.take_back(chat, question))

    async def stop_chat(self, chat: str) -> wire.ChatTree:
        return _copied(await self._chats.stop(chat))

    async def export_chats(self, form: wire.ChatFormat = "json", chats: Sequence[str] = ()) -> AsyncIterator[bytes]:
        trees = [await self.chat_tree(chat) for chat in chats]
        yield exchange.write(trees, form).encode()

    async def import_chats(self, data: str, form: wire.ChatImportFormat = "auto") -> wire.ChatImportReport:
        found = list(exchange.read(data, form))
        report = await self._chats.store.run(lambda db: exchange.enter(db, found, 0.0))
        self._chats.announce_import()
        return report

    async def presets(self) -> list[wire.NamedPreset]:
        return await self._chats.presets()

    async def put_preset(self, name: str, preset: wire.Preset) -> wire.NamedPreset:
        return await self._chats.put_preset(name, preset)

    async def delete_preset(self, name: str) -> None:
        await self._chats.delete_preset(name)


def _copied(value: Any) -> Any:
    """As it comes out of a socket: nobody shares an object with the daemon."""
    import msgspec

    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


async def say_something(daemon: FakeDaemon, *turns: tuple[str, str]) -> str:
    """A conversation that was led before; its id."""
    service = daemon.chats.service
    info = await service.create(wire.CreateChat("guide"))
    said = [
        wire.LogMessage(role, text)  # type: ignore[arg-type]
        for question, answer in turns
        for role, text in (("user", question), ("assistant", answer))
    ]
    await service.store.run(lambda db: records.merge_line(db, info.id, said, 0.0))
    return info.id
