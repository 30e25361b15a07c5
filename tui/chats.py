"""Conversations as the interface keeps them, and where: JSON files, one per conversation, written atomically.

`ChatStore` is the seam: the daemon's own store takes its place without the screens noticing.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

_TITLE_LENGTH = 60
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
    created: float
    changed: float = 0.0
    title: str = ""
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
        """The title, or the beginning of the first question."""
        first = self.turns[0].variant.question if self.turns else ""
        words = " ".join((self.title or first).split())
        return words if len(words) <= _TITLE_LENGTH else words[: _TITLE_LENGTH - 1] + "…"


class ChatStore(Protocol):
    """Keeps conversations. Methods block shortly; call them from a thread where it matters."""

    def save(self, chat: Chat) -> None: ...

    def list(self) -> list[Chat]: ...

    def load(self, chat_id: str) -> Chat | None: ...


def new_chat(model: str, system: str = "", params: dict[str, Any] | None = None, now: float | None = None) -> Chat:
    moment = time.time() if now is None else now
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(moment))
    name = f"{stamp}-{secrets.token_hex(3)}"
    return Chat(name, moment, moment, model=model, system=system, params=dict(params or {}))


class FileChats:
    """One `ID.json` per conversation in a folder."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def save(self, chat: Chat) -> None:
        """Write it so that a reader, or a crash, sees the old file or the new one.

        Raises:
            OSError: the folder cannot be written.
        """
        chat.changed = self._clock()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(chat.id)
        temporary = path.with_suffix(f".{os.getpid()}.new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(chat), indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def list(self) -> list[Chat]:
        """All conversations that can be read, the latest first."""
        if not self._folder.is_dir():
            return []
        chats = (self.load(path.stem) for path in self._folder.glob("*.json"))
        return sorted((chat for chat in chats if chat is not None), key=lambda chat: chat.changed, reverse=True)

    def load(self, chat_id: str) -> Chat | None:
        try:
            return msgspec.json.decode(self._path(chat_id).read_bytes(), type=Chat)
        except (OSError, msgspec.DecodeError, msgspec.ValidationError):
            return None

    def _path(self, chat_id: str) -> Path:
        if not _ID.fullmatch(chat_id):
            raise ValueError(f"not a chat's id: {chat_id!r}")
        return self._folder / f"{chat_id}.json"


def to_markdown(chat: Chat) -> str:
    """The conversation as a document."""
    parts = [f"# {chat.name() or 'Chat'}\n"]
    if chat.system:
        parts.append(f"> {chat.system.replace(chr(10), chr(10) + '> ')}\n")
    for turn in chat.turns:
        variant = turn.variant
        parts.append(f"**You:** {variant.question}\n")
        if variant.text:
            parts.append(f"**{variant.model or chat.model}:** {variant.text}\n")
    return "\n".join(parts)
