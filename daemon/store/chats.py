"""Conversations in the database. Functions of a connection; each call of `Store.run` is one transaction."""

from __future__ import annotations

import re
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from daemon.store import chat_search
from fcd.chattree import beginning_of, content_of
from fcd.errors import ApiError, NotFound
from fcd.wire.chats import Attachment, ChatInfo, ChatMessage, ChatTree, CreateChat, LogMessage, NamedPreset, PatchChat
from fcd.wire.openai_images import size_of_image

MOST_MESSAGES = 20_000
"""In one conversation, variants included."""
KEPT_DELETED_S = 30 * 86400.0
"""How long a deleted conversation can be restored."""

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_INFO = (
    "id, title, beginning, model, system, params, pinned, created_at, updated_at, deleted_at,"
    " (SELECT count(*) FROM chat_messages WHERE chat = chats.id)"
)
_FIELDS = (
    "id", "role", "parent", "chosen", "content", "reasoning", "model", "state", "error", "error_code", "prompt_tokens",
    "completion_tokens", "counted", "ttft_s", "tokens_per_second", "thought_s", "seconds", "created_at",
)  # fmt: skip
_FLAGS = ("chosen", "counted")
_WRITTEN = tuple(name for name in _FIELDS if name not in ("id", "role", "parent", "chosen", "created_at"))
"""What changes of an answer while it is written."""


def new_chat_id(now: float) -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(3)}"


def new_message_id() -> str:
    return f"m{secrets.token_hex(8)}"


def check_id(chat: str) -> str:
    """Raises ApiError: 400, for what cannot be a conversation's id."""
    if not _ID.fullmatch(chat):
        raise ApiError(400, "A chat's id has 1 to 64 letters, digits, '-' and '_'.", param="id")
    return chat


# Conversations


def create_chat(
    db: sqlite3.Connection, asked: CreateChat, now: float, *, chat: str = "", origin: str = "", updated: float = 0.0
) -> ChatInfo:
    chat = chat or new_chat_id(now)
    db.execute(
        "INSERT INTO chats (id, title, model, system, params, created_at, updated_at, origin)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (chat, asked.title, asked.model, asked.system, _json(asked.params), now, updated or now, origin),
    )
    chat_search.index_title(db, chat, asked.title)
    return get_chat(db, chat)


def get_chat(db: sqlite3.Connection, chat: str, *, deleted: bool = False) -> ChatInfo:
    """Raises NotFound: there is none, or it was deleted and `deleted` is False."""
    row = db.execute(f"SELECT {_INFO} FROM chats WHERE id = ?", (chat,)).fetchone()
    if row is None or (row[9] and not deleted):
        gone = row is not None
        raise NotFound(
            f"The chat '{chat[:80]}' was deleted." if gone else f"There is no chat '{chat[:80]}'.",
            hint="It can be restored for a month." if gone else "`fcd chats list` shows them.",
        )
    return _info(row)


def list_chats(
    db: sqlite3.Connection, limit: int, offset: int = 0, *, deleted: bool = False
) -> tuple[list[ChatInfo], int]:
    """Pinned ones first, then those that were added to last; and how many there are."""
    where = "deleted_at <> 0" if deleted else "deleted_at = 0"
    rows = db.execute(
        f"SELECT {_INFO} FROM chats WHERE {where} ORDER BY pinned DESC, updated_at DESC, id LIMIT ? OFFSET ?",
        (limit, offset),
    ).fetchall()
    total: int = db.execute(f"SELECT count(*) FROM chats WHERE {where}").fetchone()[0]
    return [_info(row) for row in rows], total


def patch_chat(db: sqlite3.Connection, chat: str, asked: PatchChat) -> ChatInfo:
    """Raises NotFound."""
    get_chat(db, chat)
    given = {name: getattr(asked, name) for name in asked.__struct_fields__}
    for name, value in given.items():
        if value is not msgspec.UNSET:
            stored = _json(value) if name == "params" else int(value) if name == "pinned" else value
            db.execute(f"UPDATE chats SET {name} = ? WHERE id = ?", (stored, chat))
    if asked.title is not msgspec.UNSET:
        chat_search.index_title(db, chat, asked.title)
    return get_chat(db, chat)


def delete_chat(db: sqlite3.Connection, chat: str, now: float) -> ChatInfo:
    """Hide it; it can be restored until it is purged. Raises NotFound."""
    get_chat(db, chat)
    db.execute("UPDATE chats SET deleted_at = ? WHERE id = ?", (now, chat))
    return get_chat(db, chat, deleted=True)


def restore_chat(db: sqlite3.Connection, chat: str) -> ChatInfo:
    """Raises NotFound."""
    get_chat(db, chat, deleted=True)
    db.execute("UPDATE chats SET deleted_at = 0 WHERE id = ?", (chat,))
    return get_chat(db, chat)


def purge(db: sqlite3.Connection, now: float) -> int:
    """Remove for good what was deleted long ago; how many."""
    old = [row[0] for row in db.execute(
        "SELECT id FROM chats WHERE deleted_at <> 0 AND deleted_at < ?", (now - KEPT_DELETED_S,)
    )]  # fmt: skip
    for chat in old:
        chat_search.forget(db, chat)
        db.execute("DELETE FROM chats WHERE id = ?", (chat,))
    return len(old)


def find_origin(db: sqlite3.Connection, origin: str) -> str:
    """The id of the conversation that came from there; empty when there is none."""
    row = db.execute("SELECT id FROM chats WHERE origin = ? AND deleted_at = 0", (origin,)).fetchone()
    return row[0] if row else ""


# Messages


def get_tree(db: sqlite3.Connection, chat: str) -> ChatTree:
    """All of a conversation; attachments without their data. Raises NotFound."""
    return ChatTree(get_chat(db, chat), get_messages(db, chat))


def get_messages(db: sqlite3.Connection, chat: str) -> list[ChatMessage]:
    rows = db.execute(f"SELECT {', '.join(_FIELDS)} FROM chat_messages WHERE chat = ? ORDER BY number", (chat,))
    messages = [_message(row) for row in rows]
    attached = db.execute(
        "SELECT message, name, media, size, width, height FROM chat_attachments"
        " WHERE message IN (SELECT id FROM chat_messages WHERE chat = ?) ORDER BY message, position",
        (chat,),
    ).fetchall()
    if attached:
        known = {message.id: message for message in messages}
        for message, name, media, size, width, height in attached:
            known[message].attachments.append(Attachment(name, media, "", size, width, height))
    return messages


def get_message(db: sqlite3.Connection, chat: str, message: str) -> ChatMessage:
    """With its attachments' data. Raises NotFound."""
    row = db.execute(
        f"SELECT {', '.join(_FIELDS)} FROM chat_messages WHERE id = ? AND chat = ?", (message, chat)
    ).fetchone()
    if row is None:
        raise NotFound(f"There is no message '{message[:80]}' in this chat.", hint="GET /api/chats/{id} lists them.")
    return with_data(db, _message(row))


def with_data(db: sqlite3.Connection, message: ChatMessage) -> ChatMessage:
    rows = db.execute(
        "SELECT name, media, data, size, width, height FROM chat_attachments WHERE message = ? ORDER BY position",
        (message.id,),
    )
    message.attachments = [Attachment(*row) for row in rows]
    return message


def path_to(db: sqlite3.Connection, chat: str, message: str) -> list[ChatMessage]:
    """From the first message to this one, with attachments. Raises NotFound."""
    found: list[ChatMessage] = []
    while message:
        found.append(get_message(db, chat, message))
        message = found[-1].parent
    return found[::-1]


def last_shown(db: sqlite3.Connection, chat: str) -> str:
    """The end of the path that is shown; empty when there are no messages."""
    at = ""
    while (row := _chosen_below(db, chat, at)) is not None:
        at = row
    return at


class Room:
    """How many messages a conversation may still take. Counted once: whoever adds many has one for all of them."""

    def __init__(self, db: sqlite3.Connection, chat: str) -> None:
        count: int = db.execute("SELECT count(*) FROM chat_messages WHERE chat = ?", (chat,)).fetchone()[0]
        self._left = MOST_MESSAGES - count

    def take(self) -> None:
        """For one message. Raises ApiError: 409, the conversation is full."""
        if self._left <= 0:
            raise ApiError(409, f"A chat holds at most {MOST_MESSAGES} messages: begin a new one.", code="chat_full")
        self._left -= 1


def add_message(db: sqlite3.Connection, chat: str, message: ChatMessage, room: Room | None = None) -> None:
    """Below its parent, and chosen there when it says so.

    Raises:
        ApiError: 409, the conversation is full.
    """
    (room or Room(db, chat)).take()
    if message.chosen:
        _unchoose(db, chat, message.parent)
    values = [_column(message, name) for name in _FIELDS]
    marks = ", ".join("?" * (len(values) + 1))
    db.execute(f"INSERT INTO chat_messages (chat, {', '.join(_FIELDS)}) VALUES ({marks})", (chat, *values))
    for position, attached in enumerate(message.attachments):
        db.execute(
            "INSERT INTO chat_attachments (message, position, name, media, size, data, width, height)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(message.id, position, attached.name, attached.media, attached.size, attached.data),
                *(size_of_image(attached.data) if attached.is_image else (0, 0)),
            ),
        )
    if not message.parent and message.role == "user" and message.content:
        db.execute(
            "UPDATE chats SET beginning = ? WHERE id = ? AND beginning = ''", (beginning_of(message.content), chat)
        )
    if not message.is_running:
        chat_search.index_message(db, chat, message.id)


def update_answer(db: sqlite3.Connection, chat: str, message: ChatMessage) -> None:
    """What was written so far; indexed for searches once it is over."""
    values = [_column(message, name) for name in _WRITTEN]
    db.execute(
        f"UPDATE chat_messages SET {', '.join(f'{name} = ?' for name in _WRITTEN)} WHERE id = ?",
        (*values, message.id),
    )
    if not message.is_running:
        chat_search.index_message(db, chat, message.id)


def touch(db: sqlite3.Connection, chat: str, now: float) -> None:
    db.execute("UPDATE chats SET updated_at = ? WHERE id = ?", (now, chat))


def choose(db: sqlite3.Connection, chat: str, message: str) -> None:
    """Show the path that goes through this message. Raises NotFound."""
    get_message(db, chat, message)
    at: str | None = message
    while at:
        parent: str | None = db.execute("SELECT parent FROM chat_messages WHERE id = ?", (at,)).fetchone()[0]
        _unchoose(db, chat, parent or "")
        db.execute("UPDATE chat_messages SET chosen = 1 WHERE id = ?", (at,))
        at = parent


def end_path_at(db: sqlite3.Connection, chat: str, message: str) -> None:
    """Show nothing below this message (everything is hidden when it is empty)."""
    _unchoose(db, chat, message)


def merge_line(db: sqlite3.Connection, chat: str, messages: Sequence[LogMessage], now: float) -> bool:
    """Make the path that is shown this line of messages; what is new of it becomes a branch. Whether anything was."""
    at, changed, room = "", False, Room(db, chat)
    for said in messages:
        row = _same(db, chat, at, said)
        if row is None:
            message = _from_log(said, at, now)
            add_message(db, chat, message, room)
            at, changed = message.id, True
        else:
            at = row[0]
            if not row[1]:
                choose(db, chat, at)
                changed = True
    if _chosen_below(db, chat, at) is not None:
        end_path_at(db, chat, at)
        changed = True
    return changed


def mark_interrupted(db: sqlite3.Connection) -> int:
    """Answers that a former daemon did not finish; how many there were."""
    rows = db.execute("SELECT id, chat FROM chat_messages WHERE state IN ('waiting', 'writing')").fetchall()
    for message, chat in rows:
        db.execute("UPDATE chat_messages SET state = 'interrupted' WHERE id = ?", (message,))
        chat_search.index_message(db, chat, message)
    return len(rows)


# Presets and facts


def list_presets(db: sqlite3.Connection) -> list[NamedPreset]:
    rows = db.execute("SELECT name, system, params FROM chat_presets ORDER BY name COLLATE NOCASE")
    return [NamedPreset(name, system, msgspec.json.decode(params)) for name, system, params in rows]


def put_preset(db: sqlite3.Connection, preset: NamedPreset, most: int) -> None:
    """Enter it; one of the same name is replaced.

    Raises:
        ApiError: 409, there are too many.
    """
    db.execute(
        "INSERT OR REPLACE INTO chat_presets (name, system, params) VALUES (?, ?, ?)",
        (preset.name, preset.system, _json(preset.params)),
    )
    if db.execute("SELECT count(*) FROM chat_presets").fetchone()[0] > most:
        raise ApiError(409, f"There are {most} presets already: remove one first.", code="too_many")


def delete_preset(db: sqlite3.Connection, name: str) -> None:
    """Raises NotFound."""
    if not db.execute("DELETE FROM chat_presets WHERE name = ?", (name,)).rowcount:
        raise NotFound(f"There is no preset '{name[:80]}'.")


def get_fact(db: sqlite3.Connection, name: str) -> str:
    row = db.execute("SELECT value FROM chat_facts WHERE name = ?", (name,)).fetchone()
    return row[0] if row else ""


def put_fact(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO chat_facts (name, value) VALUES (?, ?)", (name, value))


def infos(db: sqlite3.Connection, chats: Iterable[str]) -> dict[str, ChatInfo]:
    """Those of these that are there."""
    found: dict[str, ChatInfo] = {}
    for chat in chats:
        row = db.execute(f"SELECT {_INFO} FROM chats WHERE id = ? AND deleted_at = 0", (chat,)).fetchone()
        if row is not None:
            found[chat] = _info(row)
    return found


def _chosen_below(db: sqlite3.Connection, chat: str, parent: str) -> str | None:
    row = db.execute(
        "SELECT id FROM chat_messages WHERE chat = ? AND coalesce(parent, '') = ? AND chosen = 1", (chat, parent)
    ).fetchone()
    return row[0] if row else None


def _unchoose(db: sqlite3.Connection, chat: str, parent: str) -> None:
    db.execute(
        "UPDATE chat_messages SET chosen = 0 WHERE chat = ? AND coalesce(parent, '') = ? AND chosen = 1",
        (chat, parent),
    )


def _same(db: sqlite3.Connection, chat: str, parent: str, said: LogMessage) -> Any:
    """Id and chosen of the message below `parent` that says this, its attachments' texts included."""
    # Of a parent there are few, by its index; the first ones have none, and are found among their conversation's.
    under = "parent = ?" if parent else "coalesce(parent, '') = ?"
    below = f"SELECT id, chosen FROM chat_messages WHERE chat = ? AND {under} AND role = ?"
    key = (chat, parent, said.role)
    row = db.execute(f"{below} AND content = ? ORDER BY chosen DESC, number LIMIT 1", (*key, said.content)).fetchone()
    if row is not None or said.role != "user":
        return row
    for each in db.execute(f"{below} AND id IN (SELECT message FROM chat_attachments)", key).fetchall():
        content = content_of(get_message(db, chat, each[0]))
        if said.content == (content if isinstance(content, str) else content[0]["text"]):
            return each
    return None


def _from_log(said: LogMessage, parent: str, now: float) -> ChatMessage:
    spent = said.seconds - said.ttft_s
    return ChatMessage(
        new_message_id(),
        said.role,
        parent,
        True,
        said.content,
        model=said.model,
        state="stopped" if said.partial else "done",
        completion_tokens=said.tokens,
        counted=bool(said.tokens),
        ttft_s=said.ttft_s,
        tokens_per_second=(said.tokens - 1) / spent if said.tokens > 1 and spent > 0 and said.seconds else 0.0,
        seconds=said.seconds,
        created_at=said.at or now,
        attachments=said.attachments,
    )


def _info(row: Any) -> ChatInfo:
    return ChatInfo(
        row[0], row[1] or row[2], bool(row[1]), row[3], row[4], msgspec.json.decode(row[5]), bool(row[6]),
        row[7], row[8], row[9], row[10],
    )  # fmt: skip


def _message(row: Any) -> ChatMessage:
    fields = dict(zip(_FIELDS, row, strict=True))
    fields["parent"] = fields["parent"] or ""
    for name in _FLAGS:
        fields[name] = bool(fields[name])
    return ChatMessage(**fields, attachments=[])


def _column(message: ChatMessage, name: str) -> Any:
    value = getattr(message, name)
    if name == "parent":
        return value or None
    return int(value) if name in _FLAGS else value


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
