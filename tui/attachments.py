"""Files that go with a question: text as it is, images for models that see. Bounded; anything else is refused."""

from __future__ import annotations

import base64
from pathlib import Path

from fcd.wire.chats import Attachment
from tui import formats

MOST_TEXT = 512 * 1024
MOST_IMAGE = 8 * 1024 * 1024
IMAGES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
"""How files begin, and what they are."""


def read_attachment(path: Path) -> Attachment:
    """The file at `path`.

    Raises:
        ValueError: it cannot be attached, with a sentence for the person.
    """
    try:
        if not path.is_file():
            raise ValueError(f"{path} is not a file." if path.exists() else f"There is no file {path}.")
        size = path.stat().st_size
        if size > MOST_IMAGE:
            raise ValueError(f"{path.name} has {formats.size(size)}: at most {formats.size(MOST_IMAGE)} can go along.")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    name = path.name[:255]
    media = image_type(data)
    if media:
        return Attachment(name, media, f"data:{media};base64,{base64.b64encode(data).decode()}", len(data))
    if len(data) > MOST_TEXT:
        had, most = formats.size(len(data)), formats.size(MOST_TEXT)
        raise ValueError(f"{name} has {had}: at most {most} of text can go along.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{name} is neither text (UTF-8) nor a PNG, JPEG, GIF or WebP image.")
    if not text.strip():
        raise ValueError(f"{name} is empty.")
    return Attachment(name, "text/plain", text, len(data))


def image_type(data: bytes) -> str:
    """Which image these bytes begin; empty for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media for begin, media in IMAGES.items() if data.startswith(begin)), "")


def described(attached: Attachment) -> str:
    return f"{attached.name} {formats.size(attached.size)}"
