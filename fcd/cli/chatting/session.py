"""One person talking to one daemon: finds or starts it, loads the model, asks, and keeps what was answered."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import msgspec

from fcd.chatlog import Chat, ChatMessage
from fcd.cli.loading import load_and_wait
from fcd.cli.output import note
from fcd.cli.progress import ProgressDisplay
from fcd.client import Address, Client
from fcd.errors import ApiError, FcdError, NotRunning
from fcd.paths import Paths
from fcd.settings import Settings
from fcd.wire.admin import LoadRequest, ModelOptions


class Display(Protocol):
    """Where an answer goes while it is written."""

    def add(self, text: str) -> None:
        """More of the answer."""
        ...

    def finish(self) -> None:
        """The answer is over, however it ended."""
        ...


class Outcome(msgspec.Struct, frozen=True):
    """How one answer went."""

    message: ChatMessage
    finish_reason: str = ""
    """`stop`, `length`, or empty when it did not come to an end."""
    stopped: bool = False
    """By the person."""
    error: FcdError | None = None
    usage: dict[str, Any] = {}
    """As the model's worker counted; empty when it did not come so far."""


def open_daemon(paths: Paths, settings: Settings) -> Address:
    """The daemon's address; the daemon is started when it is not up, with progress on stderr."""
    from fcd.cli.ensure import ensure_daemon

    with ProgressDisplay() as progress:
        address: Address = ensure_daemon(paths, settings, progress)
        return address


class Session:
    """The connection, the model and its parameters. Use `close` at the end."""

    def __init__(self, address: Address, paths: Paths, settings: Settings, options: ModelOptions) -> None:
        self._address: Address | None = address
        self._paths = paths
        self._settings = settings
        self._options = options
        self._client: Client | None = None
        self._asked_for = ""
        self.model = ""
        """The name that requests use, once a model is loaded."""
        self.context_length = 0
        self.capabilities: list[str] = []
        """What the model's worker says that it can do; empty where it says nothing."""
        self.last: Outcome | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def load(self, name: str, options: ModelOptions | None = None) -> None:
        """Load a model, starting the daemon first when it is not up. Raises FcdError with the reason when it fails."""
        client = await self._connect()
        request = LoadRequest(name, options or self._options)
        with ProgressDisplay(_short(name)) as show:
            ready = await load_and_wait(client, request, show)
        for each in ready.notes:
            note(each)
        self._asked_for = name
        self._options = request.options
        self.model = ready.model or name
        self.context_length = ready.worker.context_length if ready.worker is not None else 0
        self.capabilities = ready.worker.capabilities if ready.worker is not None else []

    async def reconnect(self) -> None:
        """After the daemon went away: find or start it, and load the model again."""
        await self.close()
        self._address = None
        await self.load(self._asked_for)

    async def model_names(self) -> list[str]:
        client = await self._connect()
        return [model.name for model in await client.models()]

    async def answer(self, chat: Chat, display: Display, extra: dict[str, Any] | None = None) -> Outcome:
        """Ask for the next message and show it; Ctrl-C stops it. What was written is added to the chat."""
        body = {
            "model": self.model,
            "messages": chat.request_messages(),
            "stream_options": {"include_usage": True},
            **chat.parameters,
            **(extra or {}),
        }
        writing = _Writing(self.model, display)
        stopped = False
        error: FcdError | None = None
        work = asyncio.ensure_future(self._stream(body, writing))
        with stop_on_interrupt(work):
            try:
                await work
            except asyncio.CancelledError:
                stopped = True
            except FcdError as failure:
                error = failure
            finally:
                display.finish()
        message = writing.message(partial=stopped or error is not None)
        if message.content:
            chat.messages.append(message)
        self.last = Outcome(message, writing.finish_reason, stopped, error, writing.usage)
        return self.last

    async def keep(self, chat: Chat) -> None:
        """Put the conversation into the daemon's store too, while it is up."""
        if self._client is not None:
            from fcd.cli.chatting.history import send

            await send(self._client, chat)

    async def _stream(self, body: dict[str, Any], writing: _Writing) -> None:
        client = await self._connect()
        async with aclosing(client.chat(body)) as chunks:
            async for chunk in chunks:
                writing.take(chunk)

    async def _connect(self) -> Client:
        if self._client is None:
            if self._address is None:
                self._address = await asyncio.to_thread(open_daemon, self._paths, self._settings)
            self._client = Client(self._address)
        return self._client


class _Writing:
    """An answer that is being written, and how fast."""

    def __init__(self, model: str, display: Display) -> None:
        self._model = model
        self._display = display
        self._parts: list[str] = []
        self._began = time.perf_counter()
        self._first = 0.0
        self._tokens = 0
        self.usage: dict[str, Any] = {}
        self.finish_reason = ""

    def take(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.usage = usage
            self._tokens = int(usage.get("completion_tokens") or 0)
        for choice in chunk.get("choices") or []:
            text = (choice.get("delta") or {}).get("content") or ""
            if text:
                self._first = self._first or time.perf_counter()
                self._parts.append(text)
                self._display.add(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def message(self, *, partial: bool) -> ChatMessage:
        ended = time.perf_counter()
        return ChatMessage(
            "assistant",
            "".join(self._parts),
            partial=partial,
            model=self._model,
            at=time.time(),
            tokens=self._tokens,
            ttft_s=self._first - self._began if self._first else 0.0,
            seconds=ended - self._began,
        )


@contextmanager
def stop_on_interrupt(work: asyncio.Future[Any]) -> Iterator[None]:
    """Ctrl-C cancels `work` instead of ending the program."""
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(work.cancel)

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread: nothing can be caught there
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def next_step(error: FcdError) -> str:
    """What a person can do about a failed answer, in a conversation."""
    if isinstance(error, NotRunning):
        return "/regen asks again, and starts the daemon when it is not up."
    if isinstance(error, ApiError):
        if error.code == "context_length_exceeded":
            return "/undo drops the last question, /reset starts anew."
        if error.status == 400 and error.param:
            return f"/set {error.param} off leaves it out."
        if error.status in (401, 403):
            return "Set FCD_API_KEY to a key of this daemon (`fcd key create`)."
    return error.hint or "/regen asks again; `fcd daemon logs` has the details."


async def interruptible(work: Awaitable[None]) -> bool:
    """Wait for it; False when Ctrl-C ended it."""
    future = asyncio.ensure_future(work)
    with stop_on_interrupt(future):
        try:
            await future
        except asyncio.CancelledError:
            return False
    return True


def _short(name: str) -> str:
    return os.path.basename(name.rstrip("/")) if name.startswith("/") else name
