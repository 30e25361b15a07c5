"""Follows an answer that the daemon writes, from wherever this copy of it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from fcd.wire.chats import ChatEvent, ChatMessage
from tui.chats import Conversation


class Streams(Protocol):
    """What is needed of the daemon's client here."""

    def chat_stream(self, chat: str, message: str = "", cursor: str = "") -> AsyncIterator[ChatEvent]: ...


async def follow(client: Streams, conversation: Conversation, message: ChatMessage) -> None:
    """Until the answer is over. What came stays when it is cancelled or the daemon goes.

    Raises:
        FcdError: the daemon is not there any more, or does not know the answer.
    """
    cursor = cursor_of(message)
    async for event in client.chat_stream(conversation.id, message.id, cursor):
        if event.type != "idle":
            conversation.apply(message, event)


def cursor_of(message: ChatMessage) -> str:
    """Where this copy is; empty asks for all of it."""
    if not message.content and not message.reasoning:
        return ""
    return f"{len(message.reasoning)}.{len(message.content)}"
