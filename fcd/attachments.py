"""Files that go with a question: text as it is, images for models that see. Bounded; anything else is refused."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fcd.images import MAX_PIXELS, ImageFacts, image_facts, image_type
from fcd.wire.chats import Attachment

MOST_TEXT = 512 * 1024
MOST_IMAGE = 8 * 1024 * 1024
_LONGEST_PATH = 4096


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
            raise ValueError(f"{path.name} has {_size(size)}: at most {_size(MOST_IMAGE)} can go along.")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from None
    name = path.name[:255]
    facts = image_facts(data)
    if facts is not None:
        return _image(name, facts, data)
    if len(data) > MOST_TEXT:
        raise ValueError(f"{name} has {_size(len(data))}: at most {_size(MOST_TEXT)} of text can go along.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{name} is neither text (UTF-8) nor a PNG, JPEG, GIF or WebP image.")
    if not text.strip():
        raise ValueError(f"{name} is empty.")
    return Attachment(name, "text/plain", text, len(data))


def _image(name: str, facts: ImageFacts, data: bytes) -> Attachment:
    if not facts.pixels:
        raise ValueError(f"{name} is a broken image: it does not tell its size.")
    if facts.pixels > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise ValueError(f"{name} has {facts.width} x {facts.height} pixels: at most {most} megapixels can go along.")
    url = f"data:{facts.media};base64,{base64.b64encode(data).decode()}"
    return Attachment(name, facts.media, url, len(data), facts.width, facts.height)


def image_file(text: str) -> Path | None:
    """The image file that a pasted text names, as terminals write a file that is dropped on them; None for any text."""
    line = text.strip()
    if not line or "\n" in line or len(line) > _LONGEST_PATH:
        return None
    names = [unquote(urlsplit(line).path)] if line.startswith("file://") else [line, *_unquoted(line)]
    return next((path for name in names if (path := _existing_image(name)) is not None), None)


def _unquoted(line: str) -> list[str]:
    """A path as a shell reads it: terminals quote what is dropped on them."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    return words if len(words) == 1 else []


def _existing_image(name: str) -> Path | None:
    if not name.startswith(("/", "~", "./", "../")) and not re.match(r"[A-Za-z]:\\", name):
        return None
    try:
        path = Path(name).expanduser()
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return path if image_type(file.read(16)) else None
    except (OSError, RuntimeError, ValueError):
        return None


def described(attached: Attachment) -> str:
    """One line: `cat.png 420K 640x480`."""
    pixels = f" {attached.width}x{attached.height}" if attached.width else ""
    return f"{attached.name} {_size(attached.size)}{pixels}"


def _size(value: float) -> str:
    """Bytes: `420`, `8.1K`, `12M`."""
    for unit in ("", "K", "M"):
        if value < 1023.5 or unit == "M":
            return f"{value:.0f}{unit}" if value >= 9.95 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    raise AssertionError
