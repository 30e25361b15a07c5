"""What an image file says of itself in its first bytes: its kind and its size in pixels. Pure, and needs no library.

Nothing is decompressed here, so a file that claims to be huge is refused before it can be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

MAX_IMAGES: Final = 32
"""In one request."""
MAX_IMAGE_BYTES: Final = 16 * 1024 * 1024
MAX_PIXELS: Final = 36_000_000
"""Of one image: three bytes each, once it is decompressed."""
MAX_ALL_PIXELS: Final = 144_000_000
"""Of one request's images together."""
KINDS: Final = "PNG, JPEG, WebP or GIF"

_NO_SIZE: Final = frozenset({0xC4, 0xC8, 0xCC})
"""JPEG markers among those of frames that begin none."""
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xDA)})
"""JPEG markers without a length."""


class ImageFacts(NamedTuple):
    media: str
    """`image/png`, `image/jpeg`, `image/gif` or `image/webp`."""
    width: int
    """0 where the file does not say, or is broken."""
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


def image_facts(data: bytes) -> ImageFacts | None:
    """What these bytes are; None for anything but the four kinds."""
    media = image_type(data)
    if not media:
        return None
    try:
        width, height = _SIZES[media](data)
    except (struct.error, IndexError):
        width = height = 0
    return ImageFacts(media, width, height)


def image_type(data: bytes) -> str:
    """Which image these bytes begin; empty for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media for begin, media in _BEGINNINGS.items() if data.startswith(begin)), "")


def _png(data: bytes) -> tuple[int, int]:
    return struct.unpack(">II", data[16:24])


def _gif(data: bytes) -> tuple[int, int]:
    return struct.unpack("<HH", data[6:10])


def _jpeg(data: bytes) -> tuple[int, int]:
    """From the first frame's header, behind segments that each tell their length."""
    at = 2
    while True:
        if data[at] != 0xFF:
            return 0, 0
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _ALONE:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        else:
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack("<I", data[21:25])[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


_BEGINNINGS: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_SIZES: Final[dict[str, Callable[[bytes], tuple[int, int]]]] = {
    "image/png": _png,
    "image/jpeg": _jpeg,
    "image/gif": _gif,
    "image/webp": _webp,
}
