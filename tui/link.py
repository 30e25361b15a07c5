"""The connection to the daemon: finds it, starts it when that is wanted, notices when it goes, comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fcd.errors import ApiError, FcdError, NotRunning
from tui.devices import DeviceHistory

if TYPE_CHECKING:
    from fcd.client import Address
    from fcd.wire import arena
    from fcd.wire import chats as kept
    from fcd.wire.admin import DaemonEvent, DaemonStatus, LoadEvent, LoadRequest, ModelInfo, WorkerInfo
    from fcd.wire.devices import DeviceList
    from fcd.wire.downloads import Download, DownloadRequest
    from fcd.wire.neighbours import AttachRequest

LinkState = Literal["connecting", "starting", "up", "gone"]
Say = Callable[[str], None]
Ensure = Callable[[Say], Awaitable["Address"]]

BACKOFF_S = (0.3, 0.5, 1.0, 2.0, 4.0)
POLL_S = 2.0


class DaemonClient(Protocol):
    """The part of `fcd.client.Client` that the interface uses."""

    async def is_alive(self) -> bool: ...
    async def workers(self) -> list[WorkerInfo]: ...
    async def models(self) -> list[ModelInfo]: ...
    async def stop_worker(self, name: str) -> None: ...
    async def restart_worker(self, name: str) -> None: ...
    async def unload(self, model: str) -> None: ...
    async def worker_log(self, name: str, lines: int = 200) -> list[str]: ...
    async def daemon_log(self, lines: int = 200) -> list[str]: ...
    async def status(self) -> DaemonStatus: ...
    async def devices(self) -> DeviceList: ...
    async def attach_worker(self, request: AttachRequest) -> WorkerInfo: ...
    async def detach_worker(self, name: str) -> None: ...
    async def downloads(self) -> list[Download]: ...
    async def download(self, request: DownloadRequest) -> Download: ...
    async def pause_download(self, repo: str) -> None: ...
    async def cancel_download(self, repo: str) -> None: ...
    async def close(self) -> None: ...
    def load(self, request: LoadRequest) -> AsyncIterator[LoadEvent]: ...
    def watch(self) -> AsyncIterator[DaemonEvent]: ...
    def chat(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]: ...
    async def chats(self, limit: int = 100, offset: int = 0, *, deleted: bool = False) -> kept.ChatList: ...
    async def create_chat(self, asked: kept.CreateChat) -> kept.ChatInfo: ...
    async def chat_tree(self, chat: str) -> kept.ChatTree: ...
    async def patch_chat(self, chat: str, asked: kept.PatchChat) -> kept.ChatInfo: ...
    async def delete_chat(self, chat: str) -> kept.ChatInfo: ...
    async def restore_chat(self, chat: str) -> kept.ChatInfo: ...
    async def choose_message(self, chat: str, message: str) -> kept.ChatTree: ...
    async def search_chats(self, words: str, limit: int = 50) -> kept.ChatHits: ...
    async def generate(self, chat: str, asked: kept.GenerateRequest) -> kept.Generation: ...
    def chat_stream(self, chat: str, message: str = "", cursor: str = "") -> AsyncIterator[kept.ChatEvent]: ...
    async def queue_question(self, chat: str, asked: kept.QueueRequest) -> kept.ChatQueue: ...
    async def take_back(self, chat: str, question: str = "") -> kept.ChatQueue: ...
    async def stop_chat(self, chat: str) -> kept.ChatTree: ...
    def export_chats(self, form: kept.ChatFormat = "json", chats: Sequence[str] = ()) -> AsyncIterator[bytes]: ...
    async def import_chats(self, data: str, form: kept.ChatImportFormat = "auto") -> kept.ChatImportReport: ...
    async def presets(self) -> list[kept.NamedPreset]: ...
    async def put_preset(self, name: str, preset: kept.Preset) -> kept.NamedPreset: ...
    async def delete_preset(self, name: str) -> None: ...
    async def create_battle(self, request: arena.BattleRequest) -> arena.BattleInfo: ...
    async def battle(self, battle: str) -> arena.BattleInfo: ...
    async def battles(self, limit: int = 50) -> list[arena.BattleInfo]: ...
    def battle_turn(self, battle: str, prompt: str) -> AsyncIterator[arena.BattleEvent]: ...
    def battle_regenerate(self, battle: str) -> AsyncIterator[arena.BattleEvent]: ...
    def battle_events(self, battle: str) -> AsyncIterator[arena.BattleEvent]: ...
    async def battle_stop(self, battle: str) -> arena.BattleInfo: ...
    async def vote(self, battle: str, outcome: arena.Outcome, *, reveal: bool = False) -> arena.BattleInfo: ...
    async def undo(self, battle: str) -> arena.BattleInfo: ...
    async def reveal(self, battle: str) -> arena.BattleInfo: ...
    async def leaderboard(self, query: arena.LeaderboardQuery | None = None) -> arena.Leaderboard: ...
    async def head_to_head(self, query: arena.LeaderboardQuery | None = None) -> arena.HeadToHead: ...
    async def votes(
        self, query: arena.LeaderboardQuery | None = None, *, limit: int = 100, offset: int = 0
    ) -> arena.VoteList: ...
    def arena_export(
        self, form: arena.ExportFormat, query: arena.LeaderboardQuery | None = None
    ) -> AsyncIterator[bytes]: ...
    async def arena_import(self, data: bytes, form: arena.ImportFormat = "auto") -> arena.ImportReport: ...


ClientFactory = Callable[["Address | None"], Awaitable[DaemonClient]]


async def open_client(address: Address | None) -> DaemonClient:
    """The real client; its HTTP library is imported in a thread, so that the first frame does not wait for it."""

    def build() -> DaemonClient:
        from fcd.client import Client

        return Client(address)

    return await asyncio.to_thread(build)


class Link:
    """`run` keeps it up to date until it is cancelled.

    `changed` is called after every change, `told` with what became of config.toml.
    """

    def __init__(
        self,
        factory: ClientFactory,
        ensure: Ensure | None,
        changed: Callable[[], None],
        told: Callable[[str], None] = lambda words: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chats_told: Callable[[DaemonEvent], None] = lambda event: None,
        came_up: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            factory: makes a client for an address.
            ensure: starts the daemon; None where that cannot be done from here.
            changed: called after every change.
            told: gets what became of config.toml.
            sleep: waits.
            chats_told: gets what the daemon says of conversations.
            came_up: called when the daemon is there, or there again.
        """
        self.state: LinkState = "connecting"
        self.detail = ""
        self.client: DaemonClient | None = None
        self.workers: dict[str, WorkerInfo] = {}
        self.votes_seen = 0
        """Grows whenever votes changed."""
        self.devices = DeviceHistory()
        self.warnings: list[str] = []
        """What the daemon says is wrong though it works, such as a config.toml that cannot be used."""
        self._factory = factory
        self._ensure = ensure
        self._changed = changed
        self._told = told
        self._sleep = sleep
        self._chats_told = chats_told
        self._came_up = came_up
        self._wake = asyncio.Event()
        self._regreeting: asyncio.Task[None] | None = None
        self._start_wanted = ensure is not None
        self._why = ""
        """Why starting the daemon failed: said until it is there or is started again."""

    @property
    def can_start(self) -> bool:
        return self._ensure is not None

    def connected(self) -> DaemonClient:
        """The client.

        Raises:
            NotRunning: there is no daemon now.
        """
        if self.client is None or self.state != "up":
            reason = f" {self._why}" if self._why else ""
            raise NotRunning(f"The daemon is not there.{reason}")
        return self.client

    def request_start(self) -> None:
        """Start the daemon if it is not there, and try again now."""
        self._start_wanted = self.can_start and self.state != "up"
        self._wake.set()

    def worker_for(self, model: str) -> WorkerInfo | None:
        """The best worker that serves a model: a ready one, else one on its way."""
        mine = [worker for worker in self.workers.values() if model in worker.models]
        order = {"ready": 0, "loading": 1, "starting": 2}
        return min(mine, key=lambda worker: order.get(worker.state, 9), default=None)

    async def run(self) -> None:
        failures = 0
        while True:
            try:
                client = await self._open()
                self.client = client
                failures = 0
                await self._stay(client)
            except (FcdError, OSError) as error:
                self._set("gone", self._why or str(error))
            if self.state == "gone":
                await self._pause(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1

    async def _open(self) -> DaemonClient:
        address: Address | None = None
        if self._start_wanted and self._ensure is not None:
            self._start_wanted = False
            self._set("starting", "")
            self._why = ""
            try:
                address = await self._ensure(lambda text: self._set("starting", text))
            except (FcdError, OSError) as error:
                self._why = str(error)
                raise
        client = await self._factory(address)
        if not await client.is_alive():
            await client.close()
            raise NotRunning("The daemon does not answer.")
        return client

    async def _stay(self, client: DaemonClient) -> None:
        """Follow the daemon until it is gone."""
        await self.refresh()
        self._why, self._start_wanted = "", False  # one that is stopped from now on stays so until it is asked for
        self._set("up", "")
        self._came_up()
        tasks = {asyncio.create_task(self._poll()), asyncio.create_task(self._watch(client))}
        greeting = asyncio.create_task(self._greet(client))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, greeting):
                task.cancel()
            await asyncio.gather(*tasks, greeting, return_exceptions=True)
        if await client.is_alive():
            await self._sleep(BACKOFF_S[0])
            return
        raise NotRunning("The daemon went away.")

    async def _greet(self, client: DaemonClient) -> None:
        """What events tell only once it changes."""
        with contextlib.suppress(FcdError):
            self.devices.add((await client.devices()).devices)
            self._warn((await client.status()).warnings)

    def _warn(self, warnings: list[str]) -> None:
        if warnings != self.warnings:
            self.warnings = warnings
            self._changed()

    async def _watch(self, client: DaemonClient) -> None:
        try:
            async for event in client.watch():
                self._apply(event)
        except ApiError:  # a daemon that tells no events: the polling has to do
            await asyncio.Event().wait()

    async def _poll(self) -> None:
        """Numbers such as speeds change without an event."""
        while True:
            await self._sleep(POLL_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read the workers now."""
        if self.client is not None:
            workers = {worker.name: worker for worker in await self.client.workers()}
            if workers != self.workers:
                self.workers = workers
                self._changed()

    def _apply(self, event: DaemonEvent) -> None:
        if event.type == "devices":
            self.devices.add(event.devices)
            return  # screens look when they draw: nothing else has changed
        if event.type == "config" and self.client is not None:
            self._told(event.message)
            self._regreeting = asyncio.create_task(self._greet(self.client))
        if event.type == "worker" and event.worker is not None:
            self.workers[event.worker.name] = event.worker
        elif event.type == "worker_gone":
            self.workers.pop(event.name, None)
        elif event.type == "arena":
            self.votes_seen += 1
        elif event.type == "chats":
            self._chats_told(event)
            return
        self._changed()

    async def _pause(self, limit: float) -> None:
        self._wake.clear()
        sleeping = asyncio.ensure_future(self._sleep(limit))
        waking = asyncio.create_task(self._wake.wait())
        await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
        for task in (sleeping, waking):
            task.cancel()

    def _set(self, state: LinkState, detail: str) -> None:
        if state != "up" and state != self.state and state == "gone":
            self.workers = {}
        if (state, detail) != (self.state, self.detail):
            self.state, self.detail = state, detail
            self._changed()
