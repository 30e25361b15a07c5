"""How many messages a conversation holds: counted once for all that come together, and never passed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.chats import exchange, intake
from daemon.store import chat_search
from daemon.store import chats as records
from daemon.store.database import open_database
from daemon.store.store import in_transaction
from fcd.chatlog import Chat
from fcd.errors import ApiError
from fcd.wire.chats import ChatMessage, CreateChat, LogMessage

WAYS = ("import", "log", "file")


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(tmp_path / "fcd.db")
    chat_search.prepare(opened)
    yield opened
    opened.close()


def line(size: int) -> list[LogMessage]:
    return [LogMessage(("user", "assistant")[at % 2], f"line {at}") for at in range(size)]


def bring(db: sqlite3.Connection, way: str, size: int) -> None:
    """A conversation of `size` messages, in one go."""
    if way == "import":
        messages = [
            ChatMessage(str(at), said.role, str(at - 1) if at else "", True, said.content)
            for at, said in enumerate(line(size))
        ]
        exchange._enter(db, exchange.Taken(CreateChat("m"), messages, "elsewhere"), 1.0)
    elif way == "log":
        records.create_chat(db, CreateChat("m"), 1.0, chat="c")
        records.merge_line(db, "c", line(size), 1.0)
    else:
        turns = [{"variants": [{"question": f"{at}", "text": "a", "state": "done"}]} for at in range(size // 2)]
        intake.take_in(db, Chat("c", turns=turns), 1.0)


def held(db: sqlite3.Connection) -> int:
    found: int = db.execute("SELECT count(*) FROM chat_messages").fetchone()[0]
    return found


@pytest.mark.parametrize("way", WAYS)
def test_messages_that_come_together_are_counted_no_oftener_when_there_are_more(
    db: sqlite3.Connection, way: str
) -> None:
    counted = list[str]()
    db.set_trace_callback(lambda text: counted.append(text) if text.startswith("SELECT count(*)") else None)
    in_transaction(db, lambda db: bring(db, way, 40))
    db.set_trace_callback(None)
    assert held(db) == 40
    assert 1 <= len(counted) <= 2


@pytest.mark.parametrize("way", WAYS)
def test_no_conversation_takes_more_than_it_may(
    db: sqlite3.Connection, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MOST_MESSAGES", 6)
    with pytest.raises(ApiError) as full:
        in_transaction(db, lambda db: bring(db, way, 8))
    assert (full.value.status, full.value.code) == (409, "chat_full")
    assert held(db) == 0
    in_transaction(db, lambda db: bring(db, way, 6))
    (chat,) = db.execute("SELECT id FROM chats").fetchone()
    with pytest.raises(ApiError):
        records.add_message(db, chat, ChatMessage("one-more", "user"))
    assert held(db) == 6


def test_a_line_is_found_again_by_its_parents(db: sqlite3.Connection) -> None:
    records.create_chat(db, CreateChat("m"), 1.0, chat="c")
    searched = list[str]()
    db.set_trace_callback(lambda text: searched.append(text) if "chosen FROM chat_messages WHERE" in text else None)
    for _ in range(2):
        in_transaction(db, lambda db: records.merge_line(db, "c", line(10), 1.0))
    db.set_trace_callback(None)
    assert held(db) == 10
    below = [text for text in searched if " AND parent = " in text]
    assert len(below) >= 18
    for text in below:
        assert "chat_messages_parent" in str(db.execute(f"EXPLAIN QUERY PLAN {text}").fetchall())
