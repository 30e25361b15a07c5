"""Small helpers that every route of the daemon uses: JSON in, JSON out, errors in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from sanic.request import Request
from sanic.response import HTTPResponse

from fcd.errors import ApiError

T = TypeVar("T")

_JSON = "application/json"


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """`value` (msgspec structs and builtins) as a JSON answer."""
    return HTTPResponse(msgspec.json.encode(value), status, dict(headers or {}), _JSON)


def error_response(error: ApiError) -> HTTPResponse:
    return json_response(error.body(), error.status, error.headers())


def decode_body(request: Request[Any, Any], kind: type[T]) -> T:
    """The request's JSON body as `kind`.

    Raises:
        ApiError: 400, naming the field where msgspec names one.
    """
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(400, f"The request body cannot be used: {error}", param=_field_of(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}", code="invalid_json") from None


def check_encoding(header: str) -> None:
    """Refuse a body that is not sent as it is: what unpacks to more than it says is not bounded by its length.

    Raises:
        ApiError: 415, naming the header.
    """
    if header.strip().lower() not in ("", "identity"):
        raise ApiError(
            415,
            f"The body comes with 'Content-Encoding: {header.strip()[:80]}', and none is unpacked here."
            " Send it uncompressed, without that header.",
            code="unsupported_media_type",
        )


def integer_query(request: Request[Any, Any], name: str, default: int, *, low: int = 1, high: int = 10_000) -> int:
    """`?name=N` within bounds.

    Raises:
        ApiError: 400, not an integer of that range.
    """
    text = request.args.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not low <= int(text) <= high:
        raise ApiError(400, f"'{name}' must be an integer between {low} and {high}.", param=name)
    return int(text)


def _field_of(message: str) -> str | None:
    """The field in msgspec's `... - at `$.a.b``, or `b` below `$.a` in `... unknown field `b` - at `$.a``."""
    where = _quoted(message, " - at `$.")
    name = _quoted(message, "required field `") or _quoted(message, "unknown field `")
    return ".".join(part for part in (where, name) if part) or None


def _quoted(message: str, before: str) -> str:
    return message.partition(before)[2].split("`", 1)[0]
