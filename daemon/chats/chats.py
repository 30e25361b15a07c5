"""The conversations of this machine's owner: kept in the store, gone on with by the daemon, told to whoever watches."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from msgspec import UNSET

from daemon.chats.answer import LiveAnswer, follow
from daemon.chats.asking import Asker, RelayAsker
from daemon.chats.checks import check_attachments, check_params, check_request
from daemon.chats.intake import take_in_files
from daemon.context import DaemonContext
from daemon.gateway.routes import SpecialModels
from daemon.store import chat_queue, chat_search
from daemon.store import chats as records
from fcd.chattree import Tree, request_messages
from fcd.errors import ApiError, FcdError, NotFound, invalid
from fcd.wire.admin import DaemonEvent
from fcd.wire.chats import (
    MAX_ATTACHMENTS,
    MAX_PRESETS,
    ChatEvent,
    ChatHit,
    ChatHits,
    ChatInfo,
    ChatList,
    ChatMessage,
    ChatQueue,
    ChatTree,
    CreateChat,
    GenerateRequest,
    Generation,
    MessageList,
    NamedPreset,
    PatchChat,
    Preset,
    PutLog,
    QueueRequest,
)

log = logging.getLogger("fcd.chats")

FLUSH_S = 0.7
"""How often an answer that is being written is put on disk."""
MOST_RUNNING = 64

T = TypeVar("T")


class Chats:
    """One per daemon. What is answered is on disk; answers go on without whoever asked."""

    def __init__(
        self,
        context: DaemonContext,
        special: SpecialModels | None = None,
        *,
        asker: Asker | None = None,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self.store = context.store
        self.clock = context.clock
        self._asker = asker or RelayAsker(context, special)
        self._elapsed = elapsed
        self._live: dict[str, LiveAnswer] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._preparing: asyncio.Task[None] | None = None
        self._closing = False

    # Life

    async def ready(self) -> None:
        """What a former daemon left is in order: the index, answers that it did not finish, files of old versions."""
        if self._preparing is None or (self._preparing.done() and self._preparing.exception() is not None):
            self._preparing = asyncio.get_running_loop().create_task(self._prepare())
        await asyncio.shield(self._preparing)

    async def close(self) -> None:
        """Stop what is being written, and keep it."""
        self._closing = True
        while waiting := {live.task for live in self._live.values() if live.task is not None} | self._tasks:
            for live in list(self._live.values()):
                live.stop("interrupted")
            await asyncio.wait(waiting)
        await self._asker.close()

    async def _prepare(self) -> None:
        now = self.clock()
        method = await self.store.run(chat_search.prepare)
        if method != "fts5":
            log.warning("this SQLite has no FTS5: chats are searched by reading all of them")
        cut = await self.store.run(records.mark_interrupted)
        if cut:
            log.info("%d answers were cut when the daemon ended", cut)
        await self.store.run(lambda db: records.purge(db, now))
        taken = await take_in_files(self.store, self._context.paths, now)
        if taken:
            log.info("took in %d conversations from files", taken)
            self._publish("", "imported")

    # Conversations

    async def listed(self, limit: int, offset: int, *, deleted: bool = False) -> ChatList:
        await self.ready()
        found, total = await self.store.run(lambda db: records.list_chats(db, limit, offset, deleted=deleted))
        return ChatList([self._marked(info) for info in found], total)

    async def create(self, asked: CreateChat) -> ChatInfo:
        check_params(asked.params)
        info = await self._run(lambda db: records.create_chat(db, asked, self.clock()))
        self._publish(info.id, "created")
        return info

    async def get(self, chat: str) -> ChatTree:
        def work(db: sqlite3.Connection) -> ChatTree:
            tree = records.get_tree(db, chat)
            tree.queue = chat_queue.waiting(db, chat)
            return tree

        tree = await self._run(work)
        live = self._live.get(chat)
        if live is not None:
            tree.messages = [live.message if each.id == live.message.id else each for each in tree.messages]
        tree.chat = self._marked(tree.chat)
        return tree

    async def path(self, chat: str, limit: int, offset: int) -> MessageList:
        """A part of what is shown."""
        tree = await self.get(chat)
        shown = Tree(tree.messages).path()
        return MessageList(shown[offset : offset + limit], len(shown))

    async def message(self, chat: str, message: str) -> ChatMessage:
        """One message, attachments with their data."""
        return await self._run(lambda db: records.get_message(db, chat, message))

    async def patch(self, chat: str, asked: PatchChat) -> ChatInfo:
        if asked.params is not UNSET:
            check_params(asked.params)
        info = await self._run(lambda db: records.patch_chat(db, chat, asked))
        self._publish(chat, "changed")
        return self._marked(info)

    async def delete(self, chat: str) -> ChatInfo:
        """Hide it, stopping what is being written; it can be restored."""
        await self._end(chat)
        info = await self._run(lambda db: records.delete_chat(db, chat, self.clock()))
        self._publish(chat, "deleted")
        return info

    async def restore(self, chat: str) -> ChatInfo:
        info = await self._run(lambda db: records.restore_chat(db, chat))
        self._publish(chat, "created")
        return info

    async def choose(self, chat: str, message: str) -> ChatTree:
        """Show the path that goes through this message."""

        def work(db: sqlite3.Connection) -> None:
            records.get_chat(db, chat)
            records.choose(db, chat, message)

        self._check_free(chat)
        await self._run(work)
        self._publish(chat, "changed")
        return await self.get(chat)

    async def put_log(self, chat: str, asked: PutLog) -> ChatInfo:
        """A conversation that is led elsewhere, as it stands now; made here when it is not known."""
        records.check_id(chat)
        check_params(asked.params)
        for message in asked.messages:
            check_attachments(message.attachments)
        self._check_free(chat)
        now = self.clock()

        def work(db: sqlite3.Connection) -> bool:
            try:
                records.get_chat(db, chat, deleted=True)
            except NotFound:
                created = CreateChat(asked.model, asked.system, asked.params)
                records.create_chat(db, created, now, chat=chat, origin=f"file:{chat}")
            given = PatchChat(model=asked.model, system=asked.system, params=asked.params)
            db.execute("UPDATE chats SET deleted_at = 0 WHERE id = ?", (chat,))
            records.patch_chat(db, chat, given)
            changed = records.merge_line(db, chat, asked.messages, now)
            if changed:
                records.touch(db, chat, now)
            return changed

        await self._run(work)
        self._publish(chat, "changed")
        return await self._run(lambda db: records.get_chat(db, chat))

    async def search(self, words: str, limit: int) -> ChatHits:
        def work(db: sqlite3.Connection) -> ChatHits:
            found, method = chat_search.search(db, words, limit)
            known = records.infos(db, (chat for chat, _, _ in found))
            hits = [ChatHit(known[chat], message, excerpt) for chat, message, excerpt in found if chat in known]
            return ChatHits(hits, method)

        hits = await self._run(work)
        for hit in hits.hits:
            hit.chat = self._marked(hit.chat)
        return hits

    # Presets

    async def presets(self) -> list[NamedPreset]:
        return await self._run(records.list_presets)

    async def put_preset(self, name: str, preset: Preset) -> NamedPreset:
        if not name.strip() or len(name) > 60 or not name.isprintable():
            raise invalid("name", "A preset's name has 1 to 60 printable characters.")
        check_params(preset.params)
        named = NamedPreset(name, preset.system, preset.params)
        await self._run(lambda db: records.put_preset(db, named, MAX_PRESETS))
        self._publish("", "presets")
        return named

    async def delete_preset(self, name: str) -> None:
        await self._run(lambda db: records.delete_preset(db, name))
        self._publish("", "presets")

    # Answers

    async def generate(self, chat: str, asked: GenerateRequest) -> Generation:
        """Begin an answer. The question and an empty answer are on disk when this returns; the rest goes on alone."""
        check_request(asked)
        await self.ready()
        return await self._whole(self._begin(chat, asked))

    async def enqueue(self, chat: str, asked: QueueRequest) -> ChatQueue:
        """Ask once the answer that is being written is done, at once where none is. What waits is on disk.

        After an answer that was stopped, failed or interrupted, what waits stays until another answer is done, or
        another question is queued.
        """
        check_request(GenerateRequest(asked.prompt, asked.attachments))
        await self.ready()
        return await self._whole(self._enqueue(chat, asked))

    async def take_back(self, chat: str, question: str = "") -> ChatQueue:
        """Remove a question that waits, or all that do; gives them whole."""
        taken = await self._run(lambda db: chat_queue.take_back(db, chat, question))
        self._publish(chat, "queued")
        return ChatQueue(taken)

    async def _enqueue(self, chat: str, asked: QueueRequest) -> ChatQueue:
        now = self.clock()
        await self.store.run(lambda db: chat_queue.add(db, chat, asked, now))
        self._publish(chat, "queued")
        live = self._live.get(chat)
        if live is None:
            await self._go_on(chat)
        else:
            live.waits = True  # its end may have looked before this one was there
        return ChatQueue(await self.store.run(lambda db: chat_queue.waiting(db, chat)))

    async def _go_on(self, chat: str) -> None:
        """Ask what waits first. What cannot be asked now waits on."""
        if self._closing:
            return
        try:
            await self._begin(chat, None)
        except FcdError as error:
            log.info("the queue of %s waits: %s", chat, error)
        except sqlite3.Error:
            log.exception("the queue of %s waits", chat)

    async def stop(self, chat: str) -> ChatTree:
        """Stop what is being written and keep it; returns once it is on disk."""
        await self._end(chat)
        return await self.get(chat)

    async def stream(self, chat: str, message: str, cursor: str) -> AsyncGenerator[ChatEvent, None]:
        """Events of an answer from `cursor` on: of `message`, else of what is being written now.

        Raises:
            ApiError: 400, the cursor is none.
            NotFound: there is no such conversation or message.
        """
        live = self._live.get(chat)
        if live is not None and message in ("", live.message.id):
            return live.follow(cursor)
        if not message:
            await self._run(lambda db: records.get_chat(db, chat))
            return _idle()
        written = await self.message(chat, message)
        live = self._live.get(chat)  # it may have begun meanwhile
        if live is not None and message == live.message.id:
            return live.follow(cursor)
        return follow(written, cursor, _never, lambda: True)

    async def _begin(self, chat: str, asked: GenerateRequest | None) -> Generation:
        """Begin an answer to this question; None: to the first that waits."""
        self._check_free(chat)
        if len(self._live) >= MOST_RUNNING:
            raise ApiError(429, f"{MOST_RUNNING} answers are being written already.", code="overloaded", retry_after=5)
        now = self.clock()
        answer = ChatMessage(records.new_message_id(), "assistant", chosen=True, state="waiting", created_at=now)
        live = self._live[chat] = LiveAnswer(chat, answer, self._elapsed)
        try:
            info, path = await self.store.run(lambda db: _enter(db, chat, asked, answer, now))
        except BaseException:
            del self._live[chat]
            live.entered.set()
            raise
        body = {**info.params, "model": info.model, "messages": request_messages(info.system, path)}
        live.asking = asyncio.get_running_loop().create_task(self._ask(live, body))
        live.task = asyncio.get_running_loop().create_task(self._write(live, live.asking))
        live.entered.set()
        self._publish(chat, "generating")
        question = path[-1]
        question.attachments = [each.without_data() for each in question.attachments]
        return Generation(self._marked(info), question, answer)

    async def _ask(self, live: LiveAnswer, body: dict[str, Any]) -> None:
        async with aclosing(self._asker.ask(body)) as chunks:
            async for chunk in chunks:
                if not live.take(chunk):
                    live.message.state = "cut"
                    break

    async def _write(self, live: LiveAnswer, asking: asyncio.Task[None]) -> None:
        """The answer, to its end, whatever that is."""
        flushing = asyncio.get_running_loop().create_task(self._flush(live))
        await asyncio.wait((asking,))
        error = None if asking.cancelled() else asking.exception()
        if asking.cancelled():
            live.finish(live.ending)
        elif error is None:
            live.finish("done")
        elif isinstance(error, ApiError):
            ended = error.code == "shutting_down"
            live.finish("interrupted" if ended else "failed", "" if ended else error.message, error.code)
        else:  # a fault of ours must not leave an answer without an end
            log.error("an answer failed", exc_info=error)
            live.finish("failed", f"{type(error).__name__}: {error}", "internal_error")
        flushing.cancel()
        await asyncio.wait((flushing,))
        waits = False
        try:
            now = self.clock()
            waits = await self.store.run(lambda db: _conclude(db, live, now))
        except Exception:
            log.exception("an answer could not be kept")
            live.message.error = live.message.error or "The end of this answer could not be written to disk."
        finally:
            self._live.pop(live.chat, None)
            live.close()
            self._publish(live.chat, "ended")
        if (waits or live.waits) and live.message.state in ("done", "cut"):
            await self._whole(self._go_on(live.chat))

    async def _flush(self, live: LiveAnswer) -> None:
        """Put on disk what came, again and again."""
        while True:
            await asyncio.sleep(FLUSH_S)
            if not live.dirty or not live.message.is_running:
                continue
            live.dirty = False
            try:
                await self.store.run(lambda db: records.update_answer(db, live.chat, live.message))
            except sqlite3.Error:
                live.dirty = True
                log.exception("a part of an answer could not be kept; trying again")

    async def _end(self, chat: str) -> None:
        while (live := self._live.get(chat)) is not None:  # a queued one may have begun
            await live.entered.wait()
            if live.task is not None:
                live.stop()
                await asyncio.wait((live.task,))

    # Pieces

    def _check_free(self, chat: str) -> None:
        if chat in self._live:
            raise ApiError(409, "An answer is being written in this chat: stop it, or wait.", code="chat_busy")

    def _marked(self, info: ChatInfo) -> ChatInfo:
        live = self._live.get(info.id)
        info.running = live.message.id if live is not None else ""
        return info

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await self.ready()
        return await self.store.run(work)

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end although the client may leave: what is on disk and what is in memory must stay the same."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    def _publish(self, chat: str, what: str) -> None:
        """Tell watchers of the daemon which conversation changed, and how."""
        hub = getattr(self._context.controller, "hub", None)
        if hub is not None:
            hub.publish(DaemonEvent("chats", name=chat, message=what))

    def announce_import(self) -> None:
        """Conversations were taken in."""
        self._publish("", "imported")


def _enter(
    db: sqlite3.Connection, chat: str, asked: GenerateRequest | None, answer: ChatMessage, now: float
) -> tuple[ChatInfo, list[ChatMessage]]:
    """Enter the question (unless it is there) and the empty answer; the path to the question, with attachments."""
    info = records.get_chat(db, chat)
    if asked is None:
        waiting = chat_queue.pop(db, chat)
        if waiting is None:
            raise NotFound("Nothing waits in this chat any more.")
        asked = GenerateRequest(waiting.prompt, waiting.attachments)
    if asked.again:
        question = records.get_message(db, chat, asked.again)
        if question.role != "user":
            raise invalid("again", "'again' must be the id of a question.")
        records.choose(db, chat, question.id)
    else:
        parent = records.last_shown(db, chat) if asked.parent is UNSET else asked.parent
        if parent:
            records.get_message(db, chat, str(parent))
        kept = records.get_message(db, chat, asked.keep_attachments).attachments if asked.keep_attachments else []
        attachments = [*kept, *asked.attachments]
        if len(attachments) > MAX_ATTACHMENTS:
            raise invalid("attachments", f"A question has at most {MAX_ATTACHMENTS} attachments.")
        question = ChatMessage(
            records.new_message_id(), "user", str(parent), True, asked.prompt, attachments, created_at=now
        )
        records.add_message(db, chat, question)
    answer.parent, answer.model = question.id, info.model
    records.add_message(db, chat, answer)
    records.touch(db, chat, now)
    return records.get_chat(db, chat), records.path_to(db, chat, question.id)


def _conclude(db: sqlite3.Connection, live: LiveAnswer, now: float) -> bool:
    """The end of an answer; whether questions wait for it."""
    records.update_answer(db, live.chat, live.message)
    records.touch(db, live.chat, now)
    return chat_queue.waits(db, live.chat)


async def _idle() -> AsyncGenerator[ChatEvent, None]:
    yield ChatEvent("idle")


async def _never() -> None:
    raise AssertionError("a message that is over does not change")
