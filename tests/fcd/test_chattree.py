"""The tree of a conversation: whatever is done to it, one path is shown, and the database agrees with the pure one."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from daemon.store import chat_search, chats
from daemon.store.database import open_database
from daemon.store.store import in_transaction
from fcd.chattree import Tree, beginning_of, content_of, fenced, request_messages
from fcd.wire.chats import Attachment, ChatMessage, CreateChat, LogMessage


class Talk(RuleBasedStateMachine):
    """Questions, edits, retries, walks and lines from elsewhere, on the database and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.db: sqlite3.Connection = open_database(Path(self._folder.name) / "fcd.db")
        self.db.execute("PRAGMA synchronous = OFF")
        chat_search.prepare(self.db)
        self.chat = chats.create_chat(self.db, CreateChat("guide"), 1.0).id
        self.count = 0

    def teardown(self) -> None:
        self.db.close()
        self._folder.cleanup()

    @property
    def tree(self) -> Tree:
        return Tree(chats.get_messages(self.db, self.chat))

    def add(self, role: str, parent: str) -> str:
        self.count += 1
        message = ChatMessage(chats.new_message_id(), role, parent, True, f"{role} {self.count % 5}")  # type: ignore[arg-type]
        in_transaction(self.db, lambda db: chats.add_message(db, self.chat, message))
        return message.id

    @rule()
    def ask(self) -> None:
        last = chats.last_shown(self.db, self.chat)
        self.add("assistant", self.add("user", last))

    @precondition(lambda self: self.count)
    @rule(pick=st.integers(0, 10**6))
    def ask_again_or_edit(self, pick: int) -> None:
        messages = list(self.tree.by_id.values())
        message = messages[pick % len(messages)]
        before = self.tree.place(message).of
        in_transaction(self.db, lambda db: chats.choose(db, self.chat, message.id))
        new = self.add(message.role, message.parent)
        assert self.tree.place(self.tree.by_id[new]) == (before, before + 1)
        assert self.tree.path()[-1].id == new

    @precondition(lambda self: self.count)
    @rule(pick=st.integers(0, 10**6), step=st.sampled_from([-1, 1]))
    def walk(self, pick: int, step: int) -> None:
        tree = self.tree
        messages = list(tree.by_id.values())
        other = tree.neighbour(messages[pick % len(messages)], step)
        if other is None:
            return
        in_transaction(self.db, lambda db: chats.choose(db, self.chat, other.id))
        tree.choose(other.id)
        assert [each.id for each in tree.path()] == [each.id for each in self.tree.path()]
        assert other.id in [each.id for each in tree.path()]

    @rule(said=st.lists(st.integers(0, 4), max_size=6))
    def put_line(self, said: list[int]) -> None:
        line = [LogMessage(("user", "assistant")[at % 2], f"line {word}") for at, word in enumerate(said)]  # type: ignore[arg-type]
        for _ in range(2):
            in_transaction(self.db, lambda db: chats.merge_line(db, self.chat, line, 2.0))
            size = len(self.tree)
            assert [each.content for each in self.tree.path()] == [each.content for each in line]
        assert len(self.tree) == size
        self.count += len(said)

    @invariant()
    def one_of_each_is_shown(self) -> None:
        tree = self.tree
        for parent in ("", *tree.by_id):
            assert sum(each.chosen for each in tree.children(parent)) <= 1
        path = tree.path()
        assert [each.parent for each in path] == ["", *(each.id for each in path)][: len(path)]
        assert all(tree.path_to(each.id)[-1] is each for each in path)
        for message in tree.by_id.values():
            place = tree.place(message)
            assert 0 <= place.at < place.of

    @invariant()
    def the_index_holds_what_was_said(self) -> None:
        indexed = self.db.execute("SELECT count(*) FROM chat_words WHERE message <> ''").fetchone()[0]
        assert indexed == sum(bool(each.content) for each in self.tree.by_id.values())


TestTalk = Talk.TestCase
TestTalk.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)


def test_what_a_model_is_sent() -> None:
    path = [
        ChatMessage("1", "user", content="one", attachments=[Attachment("a.txt", data="text")]),
        ChatMessage("2", "assistant", content="", state="failed"),
        ChatMessage("3", "user", content="two"),
    ]
    assert request_messages("Be kind.", path) == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one\n\na.txt:\n\n```txt\ntext\n```"},
        {"role": "user", "content": "two"},
    ]
    assert request_messages("", []) == []


def test_fences_are_longer_than_what_they_hold() -> None:
    held = "````\n```\n"
    assert fenced(Attachment("no suffix", data=held)) == f"no suffix:\n\n`````\n{held}`````"
    assert isinstance(content_of(ChatMessage("1", "user", content="x")), str)


def test_titles() -> None:
    assert beginning_of("\n  First line \nsecond") == "First line"
    assert beginning_of("x" * 100) == "x" * 57 + "..."
