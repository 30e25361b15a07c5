"""Conversations of the files that versions before the store wrote: taken in once, and left as they are."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from daemon.store import chats as records
from daemon.store.store import Store
from fcd.chatlog import Chat, chats_folder, load_chat
from fcd.errors import FcdError
from fcd.paths import Paths
from fcd.wire.chats import ChatMessage, CreateChat, LogMessage, MessageState

_FACT = "files_taken_in"
_STATES: dict[str, MessageState] = {"done": "done", "stopped": "stopped", "cut": "cut", "failed": "failed"}


class _Variant(msgspec.Struct):
    """One attempt at a turn, as the interface kept it."""

    question: str
    model: str = ""
    text: str = ""
    reasoning: str = ""
    state: str = "new"
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    ttft_s: float = 0.0
    tokens_per_second: float = 0.0
    thought_s: float = 0.0


class _Turn(msgspec.Struct):
    variants: list[_Variant]
    chosen: int = 0


async def take_in_files(store: Store, paths: Paths, now: float) -> int:
    """How many were taken in. Files that cannot be read or are too long are passed over; a second call does nothing."""
    if await store.run(lambda db: records.get_fact(db, _FACT)):
        return 0
    taken = 0
    for file in await asyncio.to_thread(lambda: sorted(chats_folder(paths).glob("*.json"))):
        log = await asyncio.to_thread(_read, file)
        if log is None:
            continue
        try:
            taken += await store.run(lambda db, log=log: take_in(db, log, now))  # type: ignore[misc]
        except FcdError as error:
            logging.getLogger("fcd.chats").warning("the chat in %s was not taken in: %s", file, error)
    await store.run(lambda db: records.put_fact(db, _FACT, str(taken)))
    return taken


def take_in(db: sqlite3.Connection, log: Chat, now: float) -> bool:
    """Enter one conversation with all its variants, unless it is known; whether it was entered."""
    chat, origin = records.check_id(log.id), f"file:{log.id}"
    known = db.execute("SELECT 1 FROM chats WHERE id = ? OR origin = ?", (chat, origin)).fetchone()
    if known is not None or not (log.messages or log.turns):
        return False
    made, changed = log.created_at or now, log.updated_at or log.created_at or now
    asked = CreateChat(log.model, log.system, log.parameters)
    records.create_chat(db, asked, made, chat=chat, origin=origin, updated=changed)
    _enter_turns(db, chat, _turns(log), made)
    records.merge_line(db, chat, [_said(message) for message in log.messages if message.role != "system"], made)
    return True


def _read(file: Path) -> Chat | None:
    try:
        log = load_chat(file)
        records.check_id(log.id)
    except FcdError:
        return None
    return log


def _turns(log: Chat) -> list[_Turn]:
    try:
        turns = msgspec.convert(log.turns, list[_Turn])
    except msgspec.ValidationError:
        return []
    return [turn for turn in turns if turn.variants]


def _enter_turns(db: sqlite3.Connection, chat: str, turns: Sequence[_Turn], made: float) -> None:
    """Each turn below the chosen answer of the one before: equal questions are one, with an answer per attempt."""
    parent, room = "", records.Room(db, chat)
    for turn in turns:
        questions: dict[str, str] = {}
        chosen = turn.variants[min(max(turn.chosen, 0), len(turn.variants) - 1)]
        ends: dict[int, str] = {}
        for variant in turn.variants:
            if variant.question not in questions:
                question = ChatMessage(records.new_message_id(), "user", parent, content=variant.question)
                question.created_at = made
                records.add_message(db, chat, question, room)
                questions[variant.question] = question.id
            ends[id(variant)] = _enter_answer(db, chat, variant, questions[variant.question], made, room)
        parent = ends[id(chosen)]
        records.choose(db, chat, parent)


def _enter_answer(
    db: sqlite3.Connection, chat: str, variant: _Variant, question: str, made: float, room: records.Room
) -> str:
    if not variant.text and not variant.reasoning and variant.state in ("new", "writing"):
        return question
    answer = ChatMessage(
        records.new_message_id(), "assistant", question,
        content=variant.text, reasoning=variant.reasoning, model=variant.model,
        state=_STATES.get(variant.state, "interrupted"), error=variant.error, prompt_tokens=variant.prompt_tokens,
        completion_tokens=variant.completion_tokens, counted=variant.counted, ttft_s=variant.ttft_s,
        tokens_per_second=variant.tokens_per_second, thought_s=variant.thought_s, created_at=made,
    )  # fmt: skip
    records.add_message(db, chat, answer, room)
    return answer.id


def _said(message: Any) -> LogMessage:
    return LogMessage(
        message.role, message.content, message.partial, message.model, message.at, message.tokens, message.ttft_s,
        message.seconds,
    )  # fmt: skip
