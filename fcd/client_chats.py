"""The chats' part of the daemon's client: conversations that the daemon keeps, and answers that it writes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from urllib.parse import quote, urlencode

import msgspec

from fcd.client_calls import Calls
from fcd.wire.chats import (
    ChatEvent,
    ChatFormat,
    ChatHits,
    ChatImportFormat,
    ChatImportReport,
    ChatInfo,
    ChatList,
    ChatMessage,
    ChatQueue,
    ChatTree,
    ChooseRequest,
    CreateChat,
    GenerateRequest,
    Generation,
    ImportChats,
    NamedPreset,
    PatchChat,
    Preset,
    PresetList,
    PutLog,
    QueueRequest,
)


class ChatCalls(Calls):
    """Mixed into `fcd.client.Client`. Every method raises `NotRunning` and `ApiError` as the others do."""

    # Conversations

    async def chats(self, limit: int = 100, offset: int = 0, *, deleted: bool = False) -> ChatList:
        """Pinned ones first, then those that were added to last."""
        query = urlencode({"limit": limit, "offset": offset, **({"deleted": "true"} if deleted else {})})
        return msgspec.convert(await self.json("GET", f"/api/chats?{query}"), ChatList)

    async def create_chat(self, asked: CreateChat) -> ChatInfo:
        return msgspec.convert(await self.json("POST", "/api/chats", asked), ChatInfo)

    async def chat_tree(self, chat: str) -> ChatTree:
        """A conversation with all its messages, attachments without their data."""
        return msgspec.convert(await self.json("GET", _path(chat)), ChatTree)

    async def chat_message(self, chat: str, message: str) -> ChatMessage:
        """One message, attachments with their data."""
        return msgspec.convert(await self.json("GET", f"{_path(chat)}/messages/{_quoted(message)}"), ChatMessage)

    async def patch_chat(self, chat: str, asked: PatchChat) -> ChatInfo:
        return msgspec.convert(await self.json("PATCH", _path(chat), asked), ChatInfo)

    async def delete_chat(self, chat: str) -> ChatInfo:
        """Hide it; `restore_chat` takes that back."""
        return msgspec.convert(await self.json("DELETE", _path(chat)), ChatInfo)

    async def restore_chat(self, chat: str) -> ChatInfo:
        return msgspec.convert(await self.json("POST", f"{_path(chat)}/restore"), ChatInfo)

    async def choose_message(self, chat: str, message: str) -> ChatTree:
        """Show the path through a message."""
        return msgspec.convert(await self.json("POST", f"{_path(chat)}/choose", ChooseRequest(message)), ChatTree)

    async def put_chat_log(self, chat: str, asked: PutLog) -> ChatInfo:
        """A conversation that is led elsewhere, as it stands now."""
        return msgspec.convert(await self.json("PUT", f"{_path(chat)}/log", asked), ChatInfo)

    async def search_chats(self, words: str, limit: int = 50) -> ChatHits:
        query = urlencode({"q": words, "limit": limit})
        return msgspec.convert(await self.json("GET", f"/api/chats/search?{query}"), ChatHits)

    # Answers

    async def generate(self, chat: str, asked: GenerateRequest) -> Generation:
        """Ask; the answer is written whether or not somebody follows it."""
        return msgspec.convert(await self.json("POST", f"{_path(chat)}/generate", asked), Generation)

    async def chat_stream(self, chat: str, message: str = "", cursor: str = "") -> AsyncGenerator[ChatEvent, None]:
        """Follow an answer from a cursor on, to its end. Closing it does not stop the answer."""
        given = {name: value for name, value in (("message", message), ("cursor", cursor)) if value}
        path = f"{_path(chat)}/stream" + (f"?{urlencode(given)}" if given else "")
        async with aclosing(self.events("GET", path)) as events:
            async for event in events:
                yield msgspec.json.decode(event.data, type=ChatEvent)

    async def queue_question(self, chat: str, asked: QueueRequest) -> ChatQueue:
        """Ask once the answer that is being written is done; what waits now."""
        return msgspec.convert(await self.json("POST", f"{_path(chat)}/queue", asked), ChatQueue)

    async def take_back(self, chat: str, question: str = "") -> ChatQueue:
        """Remove a question that waits, or all; gives what was removed, attachments with their data."""
        path = f"{_path(chat)}/queue" + (f"/{_quoted(question)}" if question else "")
        return msgspec.convert(await self.json("DELETE", path), ChatQueue)

    async def stop_chat(self, chat: str) -> ChatTree:
        """Stop the answer and keep what was written."""
        return msgspec.convert(await self.json("POST", f"{_path(chat)}/stop"), ChatTree)

    # Files and presets

    def export_chats(self, form: ChatFormat = "json", chats: Sequence[str] = ()) -> AsyncGenerator[bytes, None]:
        """A file of these conversations, or of all."""
        query = {"format": form, **({"ids": ",".join(chats)} if chats else {})}
        return self.raw("GET", f"/api/chats/export?{urlencode(query)}")

    async def import_chats(self, data: str, form: ChatImportFormat = "auto") -> ChatImportReport:
        asked = ImportChats(data, form)
        return msgspec.convert(await self.json("POST", "/api/chats/import", asked), ChatImportReport)

    async def presets(self) -> list[NamedPreset]:
        return msgspec.convert(await self.json("GET", "/api/presets"), PresetList).presets

    async def put_preset(self, name: str, preset: Preset) -> NamedPreset:
        return msgspec.convert(await self.json("PUT", f"/api/presets/{_quoted(name)}", preset), NamedPreset)

    async def delete_preset(self, name: str) -> None:
        await self.json("DELETE", f"/api/presets/{_quoted(name)}")


def _path(chat: str) -> str:
    return f"/api/chats/{_quoted(chat)}"


def _quoted(text: str) -> str:
    return quote(text, safe="")
