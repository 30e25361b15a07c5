"""The query parameters of the board's routes, read into `LeaderboardQuery`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fcd.errors import ApiError, invalid
from fcd.wire.arena import LeaderboardQuery

_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(LeaderboardQuery)}
_TRUE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MOST_MODELS = 200


def read_query(given: Mapping[str, Sequence[str]], *, besides: Sequence[str] = ()) -> LeaderboardQuery:
    """Raises ApiError 400, naming the parameter; one that is not known is refused too."""
    fields: dict[str, Any] = {}
    for name, values in given.items():
        if name in besides:
            continue
        if name not in _FIELDS:
            raise ApiError(400, f"There is no parameter '{name[:100]}' here.", param=name[:100])
        fields[name] = _value(name, values)
    try:
        query = msgspec.convert(fields, LeaderboardQuery, strict=False)
    except msgspec.ValidationError as error:
        where = str(error).rpartition("$.")[2].rstrip("`") if "$." in str(error) else None
        raise ApiError(400, f"The query cannot be used: {error}", param=where) from None
    if query.style_control and query.method == "elo":
        raise invalid("style_control", "Style control goes with method=bradley_terry.")
    if not 1 <= query.rounds <= 2000:
        raise invalid("rounds", "'rounds' must be between 1 and 2000.")
    return query


def _value(name: str, values: Sequence[str]) -> Any:
    text = values[-1]
    kind = _FIELDS[name].type
    if kind is bool:
        if text.lower() not in _TRUE:
            raise invalid(name, f"'{name}' must be true or false.")
        return _TRUE[text.lower()]
    if name == "models":
        models = [model for value in values for model in value.split(",") if model]
        if len(models) > _MOST_MODELS:
            raise invalid(name, f"'models' may name at most {_MOST_MODELS}.")
        return models
    return text
