"""Requests that are plain enough to be read at a glance: a path of ours, a length, nothing unusual.

Whatever is not plain is not judged here: it is Sanic's to read, and to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

_METHOD, _VERSION = b"POST ", b" HTTP/1.1"
_LONGEST_HEAD = 8192
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e]*\r\n)*")
_UNUSUAL = ("transfer-encoding", "expect", "upgrade", "te", "trailer")
_CONNECTION = {"": True, "keep-alive": True, "close": False}


class PlainHead(msgspec.Struct, frozen=True):
    """The head of a plain request."""

    path: str
    headers: dict[str, str]
    """Names in lower case, each of them once."""
    size: int
    """Bytes of the head, with its blank line."""
    body_size: int
    keep_alive: bool


def read_head(data: bytes, paths: Collection[str], *, most_body: int) -> PlainHead | None:
    """The head that `data` begins with; None where it is not all here, or not plain, or its body larger than that."""
    if not data.startswith(_METHOD):
        return None
    end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD)
    if end < 0:
        return None
    line_end = data.find(b"\r\n")
    line = data[len(_METHOD) : line_end]
    if not line.endswith(_VERSION) or not line.isascii():
        return None
    path = line[: -len(_VERSION)].decode("ascii")
    if path not in paths:
        return None
    fields = data[line_end + 2 : end + 2]
    if _FIELDS.fullmatch(fields) is None:
        return None
    headers: dict[str, str] = {}
    lines = fields.decode("ascii").split("\r\n")
    for each in lines[:-1]:
        name, _, value = each.partition(":")
        headers[name.lower()] = value.strip(" \t")
    length = headers.get("content-length", "")
    keep_alive = _CONNECTION.get(headers.get("connection", "").lower())
    if len(headers) != len(lines) - 1 or keep_alive is None or any(name in headers for name in _UNUSUAL):
        return None
    if not length.isdigit() or len(length) > 9 or not 0 < int(length) <= most_body:
        return None
    return PlainHead(path, headers, end + 4, int(length), keep_alive)
