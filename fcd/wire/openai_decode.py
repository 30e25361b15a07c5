"""From a request's bytes to a struct, strictly: every mistake is a 400 that names the field."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, Generic, NoReturn, TypeVar

import msgspec

from fcd.errors import ApiError, invalid

T = TypeVar("T")

_AT: Final = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_AT_KEY: Final = re.compile(r" - at `key in `\$\.?(?P<path>[^`]*)``$")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)
_NAME_LIMIT: Final = 120


class RequestDecoder(Generic[T]):
    """Reads one kind of request body. Make it once: msgspec's decoder is built here."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._fields = tuple(field.encode_name for field in msgspec.structs.fields(kind))  # type: ignore[arg-type]

    def decode(self, body: bytes) -> T:
        """The request.

        Raises:
            ApiError: 400 with the field in `param` where there is one.
        """
        try:
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            self._refuse(str(error), body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _not_json(body, error) from None
        _refuse_duplicates(body)
        return request

    def _refuse(self, message: str, body: bytes) -> NoReturn:
        path, said = "", message
        for pattern in (_AT_KEY, _AT):
            found = pattern.search(message)
            if found:
                path, said = found["path"].replace("[...]", ""), message[: found.start()]
                break
        unknown, missing = _UNKNOWN.match(said), _MISSING.match(said)
        if unknown:
            raise self._unknown(path, unknown["name"])
        if missing:
            name = _join(path, missing["name"])
            raise ApiError(400, f"'{name}' is required.", code="missing_required_parameter", param=name)
        if not path:
            raise ApiError(400, f"The request body must be a JSON object: {said}.", code="invalid_json")
        raise invalid(path[:_NAME_LIMIT], f"'{path[:_NAME_LIMIT]}' cannot be used: {_lower_first(said)}.")

    def _unknown(self, path: str, name: str) -> ApiError:
        full = _join(path, name)[:_NAME_LIMIT]
        near = "" if path else _nearest(name, self._fields)
        suggestion = f" Did you mean '{near}'?" if near else ""
        return ApiError(400, f"Unknown parameter: '{full}'.{suggestion}", code="unknown_parameter", param=full)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _nearest(name: str, fields: tuple[str, ...]) -> str:
    import difflib

    near = difflib.get_close_matches(name[:64], fields, n=1, cutoff=0.75)
    return near[0] if near else ""


def _not_json(body: bytes, error: Exception) -> ApiError:
    """Malformed JSON; a number that JSON does not have (NaN, Infinity, 1e999) is named by its field."""
    param = _find_nonfinite(body)
    if param:
        return invalid(param, f"'{param}' must be a finite number.")
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return ApiError(400, f"The request body is not valid JSON: {reason[:200]}", code="invalid_json")


def _find_nonfinite(body: bytes) -> str:
    try:
        return _search(json.loads(body), "", 0)
    except (ValueError, RecursionError):
        return ""


def _search(value: Any, path: str, depth: int) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return path
    if depth > 8:
        return ""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(_join(path, str(key)[:64]), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{position}]", item) for position, item in enumerate(value)]
    return next((found for where, item in items if (found := _search(item, where, depth + 1))), "")


class _Duplicate(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _refuse_duplicates(body: bytes) -> None:
    """A key given twice would silently lose one of its values."""
    try:
        json.loads(body, object_pairs_hook=_unique)
    except _Duplicate as error:
        name = str(error)[:_NAME_LIMIT]
        raise invalid(name, f"'{name}' is given twice in one object.") from None
    except (ValueError, RecursionError):
        raise ApiError(400, "The request body is not valid JSON.", code="invalid_json") from None
