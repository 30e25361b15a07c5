"""Conversations as the interface keeps them: turns with all their variants.

They are kept in the files that `fcd chat` reads and writes too. `ChatStore` is the seam: the daemon's own store takes
the files' place without the screens noticing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from fcd import chatlog
from fcd.chatlog import ChatMessage
from fcd.errors import FcdError

_ID = re.compile(r"[0-9a-f-]{1,64}")


class Variant(msgspec.Struct, omit_defaults=True):
    """One attempt at a turn: what was asked and what came."""

    question: str
    model: str = ""
    text: str = ""
    reasoning: str = ""
    state: str = "new"
    """`new`, `writing`, `done`, `stopped` (by the person), `cut` (by the token limit) or `failed`."""
    error: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    """The token counts are the engine's own, not a count of stream chunks."""
    ttft_s: float = 0.0
    tokens_per_second: float = 0.0
    thought_s: float = 0.0


class Turn(msgspec.Struct):
    """A question and its answers; editing or retrying adds a variant, nothing is overwritten."""

    variants: list[Variant]
    chosen: int = 0

    @property
    def variant(self) -> Variant:
        return self.variants[self.chosen]

    def add(self, variant: Variant) -> None:
        """Add a variant and choose it."""
        self.variants.append(variant)
        self.chosen = len(self.variants) - 1

    def move(self, step: int) -> bool:
        """Choose the next variant or the one before; whether there was one."""
        chosen = self.chosen + step
        if not 0 <= chosen < len(self.variants):
            return False
        self.chosen = chosen
        return True


class Chat(msgspec.Struct, omit_defaults=True):
    """A conversation."""

    id: str
    created: float = 0.0
    changed: float = 0.0
    model: str = ""
    system: str = ""
    params: dict[str, Any] = {}
    turns: list[Turn] = []

    def messages(self, until: int | None = None) -> list[dict[str, str]]:
        """What the model is shown: the chosen variants, the turn at `until` with its question only."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for index, turn in enumerate(self.turns):
            variant = turn.variant
            messages.append({"role": "user", "content": variant.question})
            if index == until:
                break
            if variant.text:
                messages.append({"role": "assistant", "content": variant.text})
        return messages

    def name(self) -> str:
        """The first question's beginning."""
        return to_log(self).title


class ChatStore(Protocol):
    """Keeps conversations. Methods block shortly."""

    def save(self, chat: Chat) -> None: ...

    def list(self) -> Sequence[Chat]: ...

    def load(self, chat_id: str) -> Chat | None: ...


def new_chat(model: str, system: str = "", params: dict[str, Any] | None = None) -> Chat:
    log = chatlog.new_chat(model, system, params)
    return Chat(log.id, log.created_at, log.updated_at, model, system, dict(params or {}))


def to_log(chat: Chat) -> chatlog.Chat:
    """The conversation as it is kept: the chosen variants as messages, and all of them as turns."""
    return chatlog.Chat(
        chat.id,
        model=chat.model,
        system=chat.system,
        parameters=chat.params,
        messages=_messages(chat.turns),
        turns=msgspec.to_builtins(chat.turns),
        created_at=chat.created,
        updated_at=chat.changed,
    )


def from_log(log: chatlog.Chat) -> Chat:
    """Back again. Messages that were added elsewhere become turns; turns that no longer fit them are left out."""
    try:
        turns = msgspec.convert(log.turns, list[Turn])
    except msgspec.ValidationError:
        turns = []
    known = [(message.role, message.content) for message in _messages(turns)]
    said = [(message.role, message.content) for message in log.messages]
    if said[: len(known)] != known:
        turns, known = [], []
    turns += _turns(log.messages[len(known) :], log.model)
    return Chat(log.id, log.created_at, log.updated_at, log.model, log.system, log.parameters, turns)


def _messages(turns: Sequence[Turn]) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    for variant in (turn.variant for turn in turns):
        messages.append(ChatMessage("user", variant.question))
        if variant.text:
            messages.append(
                ChatMessage(
                    "assistant",
                    variant.text,
                    partial=variant.state != "done",
                    model=variant.model,
                    tokens=variant.completion_tokens,
                    ttft_s=variant.ttft_s,
                )
            )
    return messages


def _turns(messages: Sequence[ChatMessage], model: str) -> list[Turn]:
    turns: list[Turn] = []
    for message in messages:
        if message.role == "user":
            turns.append(Turn([Variant(message.content, model=model)]))
        elif message.role == "assistant" and turns:
            variant = turns[-1].variant
            variant.text += message.content
            variant.model = message.model or model
            variant.state = "stopped" if message.partial else "done"
            variant.completion_tokens, variant.ttft_s = message.tokens, message.ttft_s
    return turns


def to_markdown(chat: Chat) -> str:
    """The conversation as a document."""
    return chatlog.to_markdown(to_log(chat))


class FileChats:
    """One `ID.json` per conversation in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def save(self, chat: Chat) -> None:
        """Write it so that a reader, or a crash, sees the old file or the new one. Threads may call it.

        Raises:
            FcdError: it cannot be written.
        """
        with self._lock:
            chat.changed = time.time()
            chatlog.save_chat(to_log(chat), self._path(chat.id))

    def list(self) -> Sequence[Chat]:
        """All conversations that can be read, the latest first."""
        chats = (self.load(path.stem) for path in self._folder.glob("*.json") if _ID.fullmatch(path.stem))
        return sorted((chat for chat in chats if chat is not None), key=lambda chat: chat.changed, reverse=True)

    def load(self, chat_id: str) -> Chat | None:
        try:
            return from_log(chatlog.load_chat(self._path(chat_id)))
        except FcdError:
            return None

    def _path(self, chat_id: str) -> Path:
        if not _ID.fullmatch(chat_id):
            raise ValueError(f"not a chat's id: {chat_id!r}")
        return self._folder / f"{chat_id}.json"
