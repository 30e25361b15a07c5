"""Small images for tests, written byte by byte or by Pillow."""

from __future__ import annotations

import base64
import struct
import zlib
from io import BytesIO
from typing import Any


def png(width: int = 4, height: int = 4, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """A PNG of one colour."""
    rows = b"".join(b"\0" + bytes(colour) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that says it has 3.6 gigapixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0")) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(kind: str, width: int = 60, height: int = 40, **options: Any) -> bytes:
    """A picture of this kind (`PNG`, `JPEG`, `GIF`, `WEBP`), written by Pillow."""
    from PIL import Image

    image = Image.new("RGB", (width, height), (10, 120, 200))
    for x in range(width // 2):
        for y in range(height // 2):
            image.putpixel((x, y), (x * 255 // width, 200, y * 255 // height))
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def data_url(data: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(data).decode()}"


def image_part(data: bytes | None = None, **fields: Any) -> dict[str, Any]:
    """A chat's content part."""
    return {"type": "image_url", "image_url": {"url": data_url(png() if data is None else data), **fields}}


def shows(text: str = "What is this?", *images: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a question about images."""
    return [{"role": "user", "content": [{"type": "text", "text": text}, *(images or (image_part(),))]}]
