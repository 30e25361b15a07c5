"""Images in requests: `data:` URLs within bounds, never an address to go to. Every mistake is a 400 that names it."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, Literal

import msgspec

from fcd.errors import ApiError, invalid
from fcd.images import KINDS, MAX_ALL_PIXELS, MAX_IMAGE_BYTES, MAX_IMAGES, MAX_PIXELS, ImageFacts, image_facts

Detail = Literal["auto", "low", "high"]

_DATA: Final = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
_LONGEST: Final = MAX_IMAGE_BYTES * 4 // 3 + 256
_MEGA: Final = 1_000_000


class ImageUrl(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A content part's image."""

    url: str
    """A `data:` URL in base64; nothing is fetched."""
    detail: Detail | None = None
    """`low` shrinks it to fit 512 x 512 first; `auto` and `high` leave that to the model's own processor."""


class ImageCount:
    """The images of one request, counted together."""

    def __init__(self) -> None:
        self._count = 0
        self._pixels = 0

    def add(self, url: str, where: str) -> bytes:
        """One more image: its bytes.

        Args:
            where: the field that holds the URL, for errors.

        Raises:
            ApiError: 400; it is no image in a `data:` URL, or too large, or one too many.
        """
        self._count += 1
        if self._count > MAX_IMAGES:
            raise invalid(where, f"'{where}': a request may hold {MAX_IMAGES} images.")
        data, facts = decode_image(url, where)
        self._pixels += facts.pixels
        if self._pixels > MAX_ALL_PIXELS:
            most = MAX_ALL_PIXELS // _MEGA
            raise invalid(where, f"'{where}': the request's images have over {most} megapixels together. Shrink them.")
        return data


def decode_image(url: str, where: str) -> tuple[bytes, ImageFacts]:
    """An image's bytes, and what they say of it.

    Raises:
        ApiError: 400, see `ImageCount.add`.
    """
    begin = _DATA.match(url)
    if begin is None:
        raise _no_data(url, where)
    if len(url) > _LONGEST:
        raise _too_large(where)
    try:
        data = base64.b64decode(url[begin.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(where, f"'{where}' is not valid base64.") from None
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_large(where)
    facts = image_facts(data)
    if facts is None:
        raise invalid(where, f"'{where}' holds no image that is known here: {KINDS}.")
    if not facts.pixels:
        raise invalid(where, f"'{where}' holds a broken image: it does not tell its size.")
    if facts.pixels > MAX_PIXELS:
        raise invalid(
            where,
            f"'{where}' has {facts.width} x {facts.height} pixels: at most {MAX_PIXELS // _MEGA} megapixels are taken."
            " Shrink it.",
        )
    return data, facts


def size_of_image(url: str) -> tuple[int, int]:
    """Width and height in pixels; 0 and 0 for what is no image in a `data:` URL."""
    try:
        facts = decode_image(url, "url")[1]
    except ApiError:
        return 0, 0
    return facts.width, facts.height


def _no_data(url: str, where: str) -> ApiError:
    scheme = url[:12].partition(":")[0].lower()
    if scheme in ("http", "https", "ftp", "file"):
        return invalid(
            where,
            f"'{where}' is an address, and nothing is fetched here for clients: send the image itself, as"
            " 'data:image/png;base64,...'.",
        )
    return invalid(where, f"'{where}' must be a data: URL of an image in base64, such as 'data:image/png;base64,...'.")


def _too_large(where: str) -> ApiError:
    return invalid(where, f"'{where}' is too large: an image may have {MAX_IMAGE_BYTES // 2**20} MiB. Shrink it.")


def blind(model: str, where: str, why: str = "") -> ApiError:
    """The refusal of an image for a model that sees none."""
    reason = why or "it takes text only"
    return ApiError(
        400,
        f"'{where}': the model '{model[:200]}' cannot see images: {reason.rstrip('.')}. Leave the image out, or"
        " choose a model with the capability 'vision' (GET /v1/models and `fcd show` tell).",
        code="unsupported_content_part",
        param=where,
    )
