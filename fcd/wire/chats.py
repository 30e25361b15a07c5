"""What /api/chats says and takes: conversations as trees of messages, and answers while they are written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_TITLE = 200
MAX_SYSTEM = 200_000
MAX_PROMPT = 4_000_000
MAX_ATTACHMENTS = 16
MAX_PRESETS = 200
MAX_QUEUED = 32
"""Questions that wait in one conversation."""

ChatRole = Literal["user", "assistant"]
MessageState = Literal["waiting", "writing", "done", "cut", "stopped", "failed", "interrupted"]
"""`cut` by the token limit, `stopped` by a person, `interrupted` because the daemon ended."""

Title = Annotated[str, Meta(max_length=MAX_TITLE)]
System = Annotated[str, Meta(max_length=MAX_SYSTEM)]
ModelName = Annotated[str, Meta(max_length=512)]
Prompt = Annotated[str, Meta(max_length=MAX_PROMPT)]
MessageId = Annotated[str, Meta(max_length=64)]
PresetName = Annotated[str, Meta(min_length=1, max_length=60)]


class Attachment(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A file that belongs to a question: text, or an image as a `data:` URL. Listings leave `data` out."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    media: Annotated[str, Meta(max_length=100)] = "text/plain"
    data: Annotated[str, Meta(max_length=16 * 1024 * 1024)] = ""
    size: Annotated[int, Meta(ge=0)] = 0
    """Bytes of the file."""
    width: Annotated[int, Meta(ge=0)] = 0
    """Of an image, in pixels, as the image itself says; so is `height`."""
    height: Annotated[int, Meta(ge=0)] = 0

    @property
    def is_image(self) -> bool:
        return self.media.startswith("image/")

    def without_data(self) -> Attachment:
        """What listings show of it."""
        return msgspec.structs.replace(self, data="")


Attachments = Annotated[list[Attachment], Meta(max_length=MAX_ATTACHMENTS)]


class ChatMessage(msgspec.Struct, omit_defaults=True):
    """One node of the tree. Messages with the same `parent` are variants of each other; `chosen` is the one shown."""

    id: str
    role: ChatRole
    parent: str = ""
    """Empty for a conversation's first message."""
    chosen: bool = False
    content: str = ""
    attachments: list[Attachment] = []
    reasoning: str = ""
    model: str = ""
    state: MessageState = "done"
    error: str = ""
    error_code: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    counted: bool = False
    """The token counts are the engine's own, not a count of pieces."""
    ttft_s: float = 0.0
    tokens_per_second: float = 0.0
    thought_s: float = 0.0
    seconds: float = 0.0
    """From the request to the end of the answer."""
    created_at: float = 0.0
    """Unix time in seconds, as all others."""

    @property
    def is_running(self) -> bool:
        return self.state in ("waiting", "writing")


class ChatInfo(msgspec.Struct, omit_defaults=True):
    """A conversation without its messages."""

    id: str
    title: str = ""
    """As it was named, else how the first question begins."""
    named: bool = False
    model: str = ""
    system: str = ""
    params: dict[str, Any] = {}
    """Sampling fields, under the names that a request gives them."""
    pinned: bool = False
    created_at: float = 0.0
    updated_at: float = 0.0
    deleted_at: float = 0.0
    """0 unless it was deleted; then it can be restored for a month."""
    messages: int = 0
    running: str = ""
    """The answer that is being written."""


class QueuedQuestion(msgspec.Struct, omit_defaults=True):
    """A question that waits until the answer before it is written."""

    id: str
    prompt: str = ""
    attachments: list[Attachment] = []
    """With their data where it is taken back, without it where it is listed."""
    created_at: float = 0.0


class ChatQueue(msgspec.Struct):
    queue: list[QueuedQuestion]


class ChatTree(msgspec.Struct, omit_defaults=True):
    """A conversation with all its messages, oldest first, and what waits to be asked."""

    chat: ChatInfo
    messages: list[ChatMessage] = []
    queue: list[QueuedQuestion] = []


class ChatList(msgspec.Struct):
    chats: list[ChatInfo]
    total: int


class MessageList(msgspec.Struct):
    """A part of the path that is shown, in its order."""

    messages: list[ChatMessage]
    total: int


class ChatHit(msgspec.Struct, omit_defaults=True):
    chat: ChatInfo
    message: str = ""
    """Where the words are; empty when they are in the title."""
    excerpt: str = ""


class ChatHits(msgspec.Struct):
    hits: list[ChatHit]
    method: Literal["fts5", "like"]
    """How it was searched: by the index, or by reading everything."""


class CreateChat(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    model: ModelName = ""
    system: System = ""
    params: dict[str, Any] = {}
    title: Title = ""


class PatchChat(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is left out stays."""

    title: Title | UnsetType = UNSET
    """Empty goes back to how the first question begins."""
    pinned: bool | UnsetType = UNSET
    model: ModelName | UnsetType = UNSET
    system: System | UnsetType = UNSET
    params: dict[str, Any] | UnsetType = UNSET


class GenerateRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A question to ask (`prompt`), or one to answer again (`again`)."""

    prompt: Prompt = ""
    attachments: Attachments = []
    parent: MessageId | UnsetType = UNSET
    """The message that the question follows; empty: it begins the conversation. Left out: the last one shown."""
    again: MessageId = ""
    """A question's id: it gets another answer."""
    keep_attachments: MessageId = ""
    """A question's id: its attachments go with the new question too, as when it is edited."""


class QueueRequest(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A question that follows what will be shown last when its turn comes."""

    prompt: Prompt = ""
    attachments: Attachments = []


class Generation(msgspec.Struct):
    """An answer that is being written now; both messages are on disk."""

    chat: ChatInfo
    question: ChatMessage
    answer: ChatMessage


class ChooseRequest(msgspec.Struct, forbid_unknown_fields=True):
    message: MessageId


class ChatEvent(msgspec.Struct, omit_defaults=True):
    """One SSE event of GET /api/chats/{id}/stream.

    `message`: the answer as far as it is, instead of all before. `delta`: what is added. `end`: it is over, with its
    figures and without its text, which came before. `idle`: nothing is being written.
    """

    type: Literal["message", "delta", "end", "idle"]
    message: ChatMessage | None = None
    text: str = ""
    reasoning: str = ""
    cursor: str = ""
    """To go on from here: `?message=ID&cursor=CURSOR`."""
    tokens: int = 0
    tokens_per_second: float = 0.0
    ttft_s: float = 0.0
    thought_s: float = 0.0


class LogMessage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    role: ChatRole
    content: Prompt
    partial: bool = False
    model: ModelName = ""
    at: float = 0.0
    tokens: int = 0
    ttft_s: float = 0.0
    seconds: float = 0.0
    attachments: Attachments = []
    """Images; text files are in the content."""


class PutLog(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """PUT /api/chats/{id}/log: a conversation as it stands in a line. What differs becomes a branch."""

    model: ModelName = ""
    system: System = ""
    params: dict[str, Any] = {}
    messages: Annotated[list[LogMessage], Meta(max_length=4096)] = []


ChatFormat = Literal["json", "markdown", "sharegpt", "fastchat"]
ChatImportFormat = Literal["auto", "json", "sharegpt", "fastchat", "chatgpt", "fcd-chat"]


class ImportChats(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    data: str
    """The file's text."""
    format: ChatImportFormat = "auto"


class ChatImportReport(msgspec.Struct):
    added: int = 0
    duplicates: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}
    """Why some were refused, and how many."""
    chats: list[str] = []
    """Ids of those that were added."""


class Preset(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A system prompt and parameters under a name."""

    system: System = ""
    params: dict[str, Any] = {}


class NamedPreset(msgspec.Struct, omit_defaults=True):
    name: str
    system: str = ""
    params: dict[str, Any] = {}


class PresetList(msgspec.Struct):
    presets: list[NamedPreset]
