"""Images in chats for workers that do not check them: looked at here, before anything is passed on. Pure.

Servers that were attached, or that a command or vLLM's environment starts, get a client's bytes untouched. Some of them
would go and get what a URL names, or pass over an image that their model cannot see.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from daemon.dispatch import Target
from fcd.errors import invalid, unsupported
from fcd.wire.openai_images import ImageCount, blind

_PATHS: Final = frozenset({"/v1/chat/completions", "/tokenize"})
_MAYBE: Final = re.compile(rb"image|_url|\\u00[2-7]", re.IGNORECASE)
"""What a body with an image has: its letters could also be written as escapes."""
_BIG_BODY: Final = 64 * 1024


async def check_images(target: Target, path: str, model: str, body: bytes) -> None:
    """Check the images of a request that is about to be passed on.

    Raises:
        ApiError: 400; an image for a model that sees none, one that is no `data:` URL or too large, or what would be
            passed over.
    """
    if target.images == "checks" or path not in _PATHS or not _MAYBE.search(body):
        return
    if len(body) < _BIG_BODY:
        look_at(body, model, takes=target.images == "takes")
    else:
        await asyncio.to_thread(look_at, body, model, takes=target.images == "takes")


def look_at(body: bytes, model: str, *, takes: bool) -> None:
    """See `check_images`."""
    images = ImageCount()
    for where, part in _parts(msgspec.json.decode(body)):
        for name, given in part.items():
            if name == "image_url" and given is not None:
                _look_at_image(given, f"{where}.{name}", model, images, takes=takes)
            elif name.endswith("_url") and given is not None:
                _check_no_address(given, f"{where}.{name}")


def _look_at_image(given: Any, where: str, model: str, images: ImageCount, *, takes: bool) -> None:
    if not takes:
        raise blind(model, where)
    url = given.get("url") if isinstance(given, dict) else given
    place = f"{where}.url" if isinstance(given, dict) else where
    if not isinstance(url, str):
        raise invalid(place, f"'{place}' must be a data: URL.")
    images.add(url, place)
    for name, value in given.items() if isinstance(given, dict) else ():
        if name == "detail" and value not in (None, "auto", "high"):
            # The worker's server would pass over it: it always looks at the whole image.
            raise unsupported(f"{where}.detail")
        if name not in ("url", "detail"):
            raise unsupported(f"{where}.{name[:80]}")


def _check_no_address(given: Any, where: str) -> None:
    """Of videos and sound: they are the worker's to check, but it must not go anywhere for them."""
    url = given.get("url") if isinstance(given, dict) else given
    if isinstance(url, str) and not url.lstrip().lower().startswith("data:"):
        raise invalid(
            where, f"'{where}' is an address, and nothing is fetched here for clients: send the data in a data: URL."
        )


def _parts(body: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content parts of a chat's messages, and where each is."""
    messages = body.get("messages") if isinstance(body, dict) else None
    for position, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict):
                yield f"messages[{position}].content[{number}]", part
