"""Server-sent events as bytes: comments, errors, and where complete events end."""

from __future__ import annotations

import msgspec

from fcd.errors import ApiError

COMMENT = b": waiting\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream which went wrong; no `[DONE]` follows it."""
    return b"event: error\ndata: " + msgspec.json.encode(error.body()) + b"\n\n"


def complete_length(data: bytes) -> int:
    """How many of these bytes are whole events: up to and with the last blank line."""
    if data.endswith((b"\n\n", b"\r\n\r\n")):
        return len(data)
    plain, crlf = data.rfind(b"\n\n"), data.rfind(b"\r\n\r\n")
    return max(plain + 2 if plain >= 0 else 0, crlf + 4 if crlf >= 0 else 0)
