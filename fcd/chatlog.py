"""A conversation: what was said, how it is sent, and how it is kept in a file.

Files are JSON of `Chat`, written at once (a reader sees the old one or the new one) and readable by their owner only.
FastChat's saved chats are read too.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from fcd.chattree import with_files
from fcd.errors import FcdError
from fcd.paths import Paths
from fcd.wire.chats import Attachment

FORMAT = "fcd-chat-1"
_MAX_FILE = 64 * 1024 * 1024
"""Bytes of a chat file that is read."""

Role = Literal["system", "user", "assistant"]


class ChatMessage(msgspec.Struct, omit_defaults=True):
    role: Role
    content: str
    partial: bool = False
    """The answer was stopped or broke off."""
    model: str = ""
    at: float = 0.0
    """Unix time in seconds."""
    tokens: int = 0
    ttft_s: float = 0.0
    seconds: float = 0.0
    """From the request to the end of the answer."""
    attachments: list[Attachment] = []
    """Images; text files are in the content."""


class Chat(msgspec.Struct, omit_defaults=True):
    """One conversation. `messages` holds turns of user and assistant; the system message is kept apart."""

    id: str
    format: str = FORMAT
    model: str = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    """Sampling fields, under the names that a request gives them."""
    messages: list[ChatMessage] = []
    turns: list[Any] = []
    """Every answer to every question, as the interface keeps them; carried along unread by everybody else."""
    created_at: float = 0.0
    updated_at: float = 0.0

    def request_messages(self) -> list[dict[str, Any]]:
        """The messages of a request for the next answer."""
        head: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        return head + [
            {"role": message.role, "content": with_files(message.content, message.attachments)}
            for message in self.messages
        ]

    def ask(self, text: str, files: Sequence[Attachment] = ()) -> None:
        self.messages.append(question(text, files))

    def undo(self) -> ChatMessage | None:
        """Drop the last question and its answer; returns the question, None when there was none."""
        while self.messages:
            message = self.messages.pop()
            if message.role == "user":
                return message
        return None

    def drop_answer(self) -> bool:
        """Drop the last answer, so that it can be asked for again; whether there is a question to answer."""
        while self.messages and self.messages[-1].role == "assistant":
            self.messages.pop()
        return bool(self.messages)

    @property
    def title(self) -> str:
        """The first question's first line, at most 60 characters."""
        first = next((message.content for message in self.messages if message.role == "user"), "")
        line = first.strip().partition("\n")[0]
        return line if len(line) <= 60 else line[:57] + "..."


def question(text: str, files: Sequence[Attachment] = ()) -> ChatMessage:
    """What a person asks, with text files below it and images beside it."""
    words = with_files(text, [file for file in files if not file.is_image])
    return ChatMessage("user", str(words), at=time.time(), attachments=[file for file in files if file.is_image])


def new_chat(model: str, system: str = "", parameters: Mapping[str, Any] | None = None) -> Chat:
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    return Chat(
        f"{stamp}-{secrets.token_hex(3)}",
        model=model,
        system=system,
        parameters=dict(parameters or {}),
        created_at=now,
        updated_at=now,
    )


def chats_folder(paths: Paths) -> Path:
    return paths.data / "chats"


def keep_chat(chat: Chat, paths: Paths) -> Path:
    """Write the conversation where `last_chat` finds it; a conversation without messages is not kept."""
    file = chats_folder(paths) / f"{chat.id}.json"
    if chat.messages:
        chat.updated_at = time.time()
        save_chat(chat, file)
    return file


def last_chat(paths: Paths) -> Chat | None:
    """The conversation that was added to last; files that cannot be read are passed over."""
    for file in sorted(chats_folder(paths).glob("*.json"), key=_changed, reverse=True):
        try:
            return load_chat(file)
        except FcdError:
            continue
    return None


def save_chat(chat: Chat, file: Path) -> None:
    """Replace `file` at once. Raises FcdError when it cannot be written."""
    write_atomically(file, msgspec.json.format(msgspec.json.encode(chat), indent=1))


def load_chat(file: Path) -> Chat:
    """Read a conversation of ours or of FastChat's.

    Raises:
        FcdError: it cannot be read, or is neither.
    """
    try:
        if file.stat().st_size > _MAX_FILE:
            raise FcdError(f"{file} is larger than {_MAX_FILE // 1024**2} MiB: no chat is.")
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FcdError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise FcdError(f"{file} is not JSON: {error}.", hint="/save writes the files that /load reads.") from error
    if isinstance(tree, dict) and "messages" in tree and "roles" in tree:
        return _from_fastchat(tree, file)
    try:
        return msgspec.convert(tree, Chat)
    except msgspec.ValidationError as error:
        raise FcdError(
            f"{file} is not a saved chat: {error}.", hint="/save writes the files that /load reads."
        ) from error


def to_markdown(chat: Chat) -> str:
    """The conversation to read, with a heading for each speaker."""
    lines = [f"# {chat.title or 'Chat'}", "", f"Model: {chat.model}", ""]
    if chat.system:
        lines += ["## System", "", chat.system, ""]
    for message in chat.messages:
        name = "User" if message.role == "user" else message.model or chat.model or "Assistant"
        lines += [f"## {name}{' (stopped)' if message.partial else ''}", "", message.content, ""]
        for image in message.attachments:
            lines += [f"[image: {image.name}]", ""]
    return "\n".join(lines)


def to_openai_json(chat: Chat) -> str:
    """`{"model", "messages"}` as a request has them."""
    tree = {"model": chat.model, "messages": chat.request_messages(), **chat.parameters}
    return json.dumps(tree, ensure_ascii=False, indent=1) + "\n"


def write_atomically(file: Path, data: bytes) -> None:
    """Raises FcdError when the file cannot be written."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise FcdError(f"{file} cannot be written: {error.strerror or error}.") from error


def _from_fastchat(tree: Mapping[str, Any], file: Path) -> Chat:
    """FastChat's `{"template_name", "system_message", "roles", "messages": [[role, text]], "offset"}`.

    The first `offset` messages are examples of its template, not of the conversation.
    """
    roles, messages = tree["roles"], tree["messages"]
    try:
        pairs = [(str(role), text) for role, text in messages[int(tree.get("offset") or 0) :]]
        user = str(roles[0])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise FcdError(f"{file} looks like a chat that FastChat saved, but its messages cannot be read.") from error
    chat = new_chat("", system=str(tree.get("system_message") or ""))
    chat.messages = list(_fastchat_messages(pairs, user))
    return chat


def _fastchat_messages(pairs: Sequence[tuple[str, Any]], user: str) -> Iterable[ChatMessage]:
    for role, text in pairs:
        if isinstance(text, list) and text:  # a text with images: only the text can be kept
            text = text[0]
        if isinstance(text, str):
            yield ChatMessage("user" if role == user else "assistant", text)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
