"""What a conversation may hold, whoever brings it: a request or a file. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from fcd.errors import invalid
from fcd.wire.chats import MAX_ATTACHMENTS, Attachment, GenerateRequest
from fcd.wire.openai_images import ImageCount

_RESERVED = frozenset({"model", "messages", "stream", "stream_options", "n", "tools", "functions"})
"""Fields of a request that a conversation sets itself."""


def check_params(params: dict[str, Any]) -> None:
    """Raises ApiError: 400, a field that a conversation sets itself, or too many."""
    for name in params:
        if name in _RESERVED:
            raise invalid(f"params.{name}", f"'{name}' is not a parameter of a chat: it sets that itself.")
    if len(params) > 64:
        raise invalid("params", "A chat has at most 64 parameters.")


def check_request(asked: GenerateRequest) -> None:
    """Raises ApiError: 400, it asks nothing, or two things."""
    if asked.again:
        if asked.prompt or asked.attachments or asked.keep_attachments or asked.parent is not UNSET:
            raise invalid("again", "'again' answers a question that is there: it goes with nothing else.")
        return
    if not asked.prompt.strip() and not asked.attachments and not asked.keep_attachments:
        raise invalid("prompt", "'prompt' is missing: what is to be asked?")
    check_attachments(asked.attachments)


def check_attachments(attachments: Sequence[Attachment]) -> None:
    """Raises ApiError: 400, too many, or an image that is not in the request: a model's server would go and get it."""
    if len(attachments) > MAX_ATTACHMENTS:
        raise invalid("attachments", f"A question has at most {MAX_ATTACHMENTS} attachments.")
    images = ImageCount()
    for position, attached in enumerate(attachments):
        where = f"attachments[{position}]"
        if attached.is_image:
            if not attached.data.startswith(f"data:{attached.media};base64,"):
                raise invalid(f"{where}.data", f"'{where}.data' must be a data: URL of {attached.media} in base64.")
            images.add(attached.data, f"{where}.data")
        elif not attached.data:
            raise invalid(f"{where}.data", f"'{where}.data' is missing: the file's text.")
