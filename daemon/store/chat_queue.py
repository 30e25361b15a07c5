"""Questions that wait for their turn in a conversation. Functions of a connection, as in `chats`."""

from __future__ import annotations

import sqlite3

import msgspec

from daemon.store.chats import get_chat, new_message_id
from fcd.errors import ApiError, NotFound
from fcd.wire.chats import MAX_QUEUED, Attachment, QueuedQuestion, QueueRequest

_FIELDS = "id, prompt, attachments, created_at"


def add(db: sqlite3.Connection, chat: str, asked: QueueRequest, now: float) -> None:
    """At the end.

    Raises:
        NotFound: there is no such conversation.
        ApiError: 409, too many wait already.
    """
    get_chat(db, chat)
    count: int = db.execute("SELECT count(*) FROM chat_queue WHERE chat = ?", (chat,)).fetchone()[0]
    if count >= MAX_QUEUED:
        raise ApiError(409, f"{MAX_QUEUED} questions wait in this chat already: take one back.", code="queue_full")
    db.execute(
        "INSERT INTO chat_queue (id, chat, prompt, attachments, created_at) VALUES (?, ?, ?, ?, ?)",
        (new_message_id(), chat, asked.prompt, msgspec.json.encode(asked.attachments).decode(), now),
    )


def waiting(db: sqlite3.Connection, chat: str) -> list[QueuedQuestion]:
    """In their order; attachments without their data."""
    found = _read(db, f"SELECT {_FIELDS} FROM chat_queue WHERE chat = ? ORDER BY number", (chat,))
    for question in found:
        question.attachments = [each.without_data() for each in question.attachments]
    return found


def waits(db: sqlite3.Connection, chat: str) -> bool:
    return db.execute("SELECT 1 FROM chat_queue WHERE chat = ? LIMIT 1", (chat,)).fetchone() is not None


def pop(db: sqlite3.Connection, chat: str) -> QueuedQuestion | None:
    """The first, which is now nobody's but the caller's."""
    found = _read(db, f"SELECT {_FIELDS} FROM chat_queue WHERE chat = ? ORDER BY number LIMIT 1", (chat,))
    for question in found:
        db.execute("DELETE FROM chat_queue WHERE id = ?", (question.id,))
    return found[0] if found else None


def take_back(db: sqlite3.Connection, chat: str, question: str = "") -> list[QueuedQuestion]:
    """Remove one, or all when `question` is empty; with their attachments' data. Raises NotFound."""
    get_chat(db, chat)
    found = _read(
        db, f"SELECT {_FIELDS} FROM chat_queue WHERE chat = ? AND (id = ? OR ? = '') ORDER BY number",
        (chat, question, question),
    )  # fmt: skip
    if question and not found:
        raise NotFound("That question does not wait any more.", hint="It was asked, or taken back elsewhere.")
    for each in found:
        db.execute("DELETE FROM chat_queue WHERE id = ?", (each.id,))
    return found


def _read(db: sqlite3.Connection, sql: str, values: tuple[str, ...]) -> list[QueuedQuestion]:
    return [
        QueuedQuestion(each, prompt, msgspec.json.decode(attachments, type=list[Attachment]), at)
        for each, prompt, attachments, at in db.execute(sql, values).fetchall()
    ]
