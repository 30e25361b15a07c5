"""Conversations of `fcd chat`: kept in files of their own, and in the daemon's store while one answers."""

from __future__ import annotations

from contextlib import suppress

from fcd.chatlog import Chat, ChatMessage, last_chat
from fcd.chattree import Tree, content_of
from fcd.client import Address, Client
from fcd.errors import FcdError
from fcd.paths import Paths
from fcd.wire.chats import ChatInfo, ChatTree, LogMessage, PutLog

_LOOKED_AT = 200
"""Conversations among which the latest is looked for: pinned ones come first in the daemon's list."""


async def send(client: Client, chat: Chat) -> None:
    """Put the conversation into the daemon's store as it stands. A daemon that refuses it is passed over: there is the
    file."""
    said = [
        LogMessage(
            message.role, message.content, message.partial, message.model, message.at, message.tokens,
            message.ttft_s, message.seconds, message.attachments,
        )
        for message in chat.messages
        if message.role != "system"
    ]  # fmt: skip
    if said:
        with suppress(FcdError):
            await client.put_chat_log(chat.id, PutLog(chat.model, chat.system, chat.parameters, said))


async def latest(address: Address, paths: Paths) -> Chat | None:
    """The conversation that was added to last, here or in the interface; None when there is none."""
    kept = last_chat(paths)
    with suppress(FcdError):
        async with Client(address) as client:
            newest = _newest((await client.chats(_LOOKED_AT)).chats)
            if newest is not None and (kept is None or newest.updated_at > kept.updated_at):
                tree = await client.chat_tree(newest.id)
                for position, message in enumerate(tree.messages):
                    if message.attachments:  # a tree has them without their data
                        tree.messages[position] = await client.chat_message(newest.id, message.id)
                return from_tree(tree)
    return kept


def from_tree(tree: ChatTree) -> Chat:
    """What is shown of a conversation, as `fcd chat` goes on with it."""
    info = tree.chat
    return Chat(
        info.id,
        model=info.model,
        system=info.system,
        parameters=dict(info.params),
        messages=[
            ChatMessage(
                message.role,
                _text(content_of(message)),
                partial=message.state not in ("done", "cut"),
                model=message.model,
                at=message.created_at,
                tokens=message.completion_tokens,
                ttft_s=message.ttft_s,
                seconds=message.seconds,
                attachments=[file for file in message.attachments if file.is_image],
            )
            for message in Tree(tree.messages).path()
            if message.role == "user" or message.content
        ],
        created_at=info.created_at,
        updated_at=info.updated_at,
    )


def _newest(chats: list[ChatInfo]) -> ChatInfo | None:
    return max((info for info in chats if info.messages), key=lambda info: info.updated_at, default=None)


def _text(content: object) -> str:
    return content if isinstance(content, str) else str(content[0]["text"])  # type: ignore[index]
