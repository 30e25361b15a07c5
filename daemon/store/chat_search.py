"""Finding conversations by what was said and attached: SQLite's FTS5 where it is there, else by reading everything.

The index is a table of its own, kept by the functions here: a database that has it can still be written by an SQLite
without FTS5, after which `prepare` makes it anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Literal

Method = Literal["fts5", "like"]

_TABLE = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS chat_words USING fts5"
    " (body, chat UNINDEXED, message UNINDEXED, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
)
_FORM = "2"
"""Of what is indexed: an index of another form is made anew. 2: attached files too."""
_BODY = (
    "(content || coalesce((SELECT group_concat(char(10) || name || CASE WHEN media LIKE 'image/%' THEN ''"
    " ELSE char(10) || data END, '') FROM chat_attachments WHERE message = chat_messages.id), ''))"
)
"""What is searched of a message: what was said, and what goes with it, by name and text."""
_SAID = (
    "state NOT IN ('waiting', 'writing')"
    " AND (content <> '' OR EXISTS (SELECT 1 FROM chat_attachments WHERE message = chat_messages.id))"
)
_MOST_WORDS = 32
_EXCERPT_WORDS = 14
_AROUND = 40
"""Characters on both sides of what was found."""


def has_fts5(db: sqlite3.Connection) -> bool:
    """Whether this SQLite can make such an index at all."""
    try:
        db.execute("CREATE VIRTUAL TABLE temp.chat_probe USING fts5 (x)")
        db.execute("DROP TABLE temp.chat_probe")
    except sqlite3.OperationalError:
        return False
    return True


def is_indexed(db: sqlite3.Connection) -> bool:
    """Whether the index is kept on this connection."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'chat_words'").fetchone():
        return False
    try:
        db.execute("SELECT 1 FROM chat_words LIMIT 1")
    except sqlite3.OperationalError:
        return False
    return True


def prepare(db: sqlite3.Connection) -> Method:
    """Make the index, or make it anew where messages were written without it."""
    if not has_fts5(db):
        return "like"
    db.execute(_TABLE)
    said: int = db.execute(f"SELECT count(*) FROM chat_messages WHERE {_SAID}").fetchone()[0]
    indexed: int = db.execute("SELECT count(*) FROM chat_words WHERE message <> ''").fetchone()[0]
    form = db.execute("SELECT value FROM chat_facts WHERE name = 'search'").fetchone()
    if said != indexed or form != (_FORM,):
        db.execute("DELETE FROM chat_words")
        db.execute(
            "INSERT INTO chat_words (rowid, body, chat, message)"
            f" SELECT 2 * number, {_BODY}, chat, id FROM chat_messages WHERE {_SAID}"
        )
        db.execute(
            "INSERT INTO chat_words (rowid, body, chat, message)"
            " SELECT 2 * rowid + 1, title, id, '' FROM chats WHERE title <> ''"
        )
        db.execute("INSERT OR REPLACE INTO chat_facts (name, value) VALUES ('search', ?)", (_FORM,))
    return "fts5"


def index_message(db: sqlite3.Connection, chat: str, message: str) -> None:
    """As it stands in the database, with its attachments."""
    if is_indexed(db):
        row = db.execute(f"SELECT number, {_BODY} FROM chat_messages WHERE id = ?", (message,)).fetchone()
        _put(db, 2 * row[0], row[1], chat, message)


def index_title(db: sqlite3.Connection, chat: str, title: str) -> None:
    if is_indexed(db):
        row = db.execute("SELECT rowid FROM chats WHERE id = ?", (chat,)).fetchone()
        _put(db, 2 * row[0] + 1, title, chat, "")


def forget(db: sqlite3.Connection, chat: str) -> None:
    """Before a conversation is removed for good."""
    if is_indexed(db):
        db.execute(
            "DELETE FROM chat_words WHERE rowid IN (SELECT 2 * number FROM chat_messages WHERE chat = ?"
            " UNION SELECT 2 * rowid + 1 FROM chats WHERE id = ?)",
            (chat, chat),
        )


def search(db: sqlite3.Connection, words: str, limit: int) -> tuple[list[tuple[str, str, str]], Method]:
    """Conversation, message and excerpt of each conversation that has all the words in one message, best first.

    Words are looked for as beginnings of words; where the index finds none, anywhere in the text, which also finds
    parts of words and scripts that are written without spaces.
    """
    # SQLite's texts end at a NUL: one in a query is no word's.
    wanted = words.replace("\0", " ").split()[:_MOST_WORDS]
    if not wanted:
        return [], "fts5" if is_indexed(db) else "like"
    if is_indexed(db):
        found = _by_index(db, wanted, limit)
        if found:
            return found, "fts5"
    return _by_reading(db, wanted, limit), "like"


def _put(db: sqlite3.Connection, rowid: int, body: str, chat: str, message: str) -> None:
    db.execute("DELETE FROM chat_words WHERE rowid = ?", (rowid,))
    if body:
        db.execute(
            "INSERT INTO chat_words (rowid, body, chat, message) VALUES (?, ?, ?, ?)", (rowid, body, chat, message)
        )


def _by_index(db: sqlite3.Connection, wanted: list[str], limit: int) -> list[tuple[str, str, str]]:
    query = " ".join('"' + word.replace('"', '""') + '"*' for word in wanted)
    rows = db.execute(
        f"SELECT chat_words.chat, message, snippet(chat_words, 0, '', '', '...', {_EXCERPT_WORDS})"
        " FROM chat_words JOIN chats ON chats.id = chat_words.chat AND chats.deleted_at = 0"
        " WHERE chat_words MATCH ? ORDER BY rank LIMIT ?",
        (query, limit * 20),
    )
    return _one_per_chat(rows, limit)


def _by_reading(db: sqlite3.Connection, wanted: list[str], limit: int) -> list[tuple[str, str, str]]:
    """Conversation by conversation, the newest first, until enough are found: only ids are sorted, and no more than
    one body is held at a time."""
    patterns = [f"%{_escaped(word)}%" for word in wanted]
    matches = " AND ".join(["body LIKE ? ESCAPE '\\'"] * len(patterns))
    titles = f"SELECT '', title AS body FROM chats WHERE id = ? AND {matches}"
    messages = f"SELECT id, body FROM (SELECT id, {_BODY} AS body FROM chat_messages WHERE chat = ?) WHERE {matches}"
    found: list[tuple[str, str, str]] = []
    for (chat,) in db.execute("SELECT id FROM chats WHERE deleted_at = 0 ORDER BY updated_at DESC"):
        for query in (titles, messages):
            row = db.execute(f"{query} LIMIT 1", (chat, *patterns)).fetchone()
            if row is not None:
                found.append((chat, row[0], " ".join(_excerpt(row[1], wanted[0]).split())))
                break
        if len(found) >= limit:
            break
    return found


def _one_per_chat(rows: Iterable[tuple[str, str, str]], limit: int) -> list[tuple[str, str, str]]:
    found: dict[str, tuple[str, str, str]] = {}
    for chat, message, excerpt in rows:
        found.setdefault(chat, (chat, message, " ".join(excerpt.split())))
        if len(found) >= limit:
            break
    return list(found.values())


def _escaped(word: str) -> str:
    for character in "\\%_":
        word = word.replace(character, f"\\{character}")
    return word


def _excerpt(body: str, word: str) -> str:
    at = max(0, body.lower().find(word.lower()))
    start, end = max(0, at - _AROUND), at + len(word) + _AROUND
    return ("..." if start else "") + body[start:end] + ("..." if end < len(body) else "")
