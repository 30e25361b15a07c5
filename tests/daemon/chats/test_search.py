"""Searching without an index: what is read of what was said, and for how long it is held."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.store import chat_search
from daemon.store import chats as records
from daemon.store.database import open_database
from fcd.wire.chats import CreateChat, LogMessage


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(tmp_path / "fcd.db")
    yield opened
    opened.close()


def talk(db: sqlite3.Connection, name: str, said: list[str], at: float) -> None:
    records.create_chat(db, CreateChat("m", title=name), at, chat=name)
    lines = [LogMessage(("user", "assistant")[number % 2], text) for number, text in enumerate(said)]
    records.merge_line(db, name, lines, at)


def found(db: sqlite3.Connection, words: str, limit: int) -> list[tuple[str, str]]:
    hits, method = chat_search.search(db, words, limit)
    assert method == "like"
    return [(chat, excerpt) for chat, _, excerpt in hits]


def test_a_conversation_that_says_a_word_often_hides_no_other(db: sqlite3.Connection) -> None:
    talk(db, "first", ["An otter swims."], 1.0)
    talk(db, "gone", ["An otter is deleted."], 2.0)
    talk(db, "otters", ["nothing"], 3.0)
    talk(db, "often", [f"otter {number}" for number in range(100)], 4.0)
    records.delete_chat(db, "gone", 5.0)
    assert found(db, "OTTER", 5) == [("often", "otter 0"), ("otters", "otters"), ("first", "An otter swims.")]
    assert found(db, "otter", 2) == [("often", "otter 0"), ("otters", "otters")]
    assert found(db, "otter swims", 2) == [("first", "An otter swims.")]


def test_no_more_is_read_than_is_given_back_and_one_body_at_a_time(db: sqlite3.Connection) -> None:
    long = "word " * 40_000
    for number in range(8):
        talk(db, f"chat {number}", [f"{long}{number}.{line}" for line in range(5)], float(number))
    read = list[int]()

    def like(pattern: str, text: str, _escape: str) -> bool:
        read.append(len(text))
        return pattern.strip("%") in text

    db.create_function("like", 3, like)
    assert [chat for chat, _ in found(db, "word", 2)] == ["chat 7", "chat 6"]
    assert len([size for size in read if size >= len(long)]) == 2
