"""What the gateway reads of a request's body: only what it needs to route it. The worker checks the rest."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import msgspec

from fcd.errors import ApiError, ConfigError, invalid
from fcd.settings import parse_duration

LONGEST_MODEL_NAME = 512


class RoutedCall(msgspec.Struct, frozen=True):
    model: str
    """Empty where the body names none, which only the tokenizer routes allow."""
    stream: bool = False
    keep_alive: str = ""
    """How long the model is to stay loaded, as a duration; empty when the body does not say."""


class _Body(msgspec.Struct):
    model: Any = None
    stream: Any = None
    keep_alive: Any = None


_decoder = msgspec.json.Decoder(_Body)


def read_call(body: bytes, *, needs_model: bool = True) -> RoutedCall:
    """Model, stream flag and keep_alive of an OpenAI request.

    Raises:
        ApiError: 400; the body is not a JSON object with unique keys, or one of the three cannot be used.
    """
    try:
        text = body.decode("utf-8")
        fields = _decoder.decode(body)
        _refuse_duplicates(text)
    except UnicodeDecodeError as error:
        raise _not_json(f"it is not UTF-8 at byte {error.start}") from None
    except msgspec.ValidationError:
        raise ApiError(400, "The request body must be a JSON object.", code="invalid_json") from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _not_json(str(error)) from None
    return RoutedCall(_model(fields.model, needs_model), _stream(fields.stream), _keep_alive(fields.keep_alive))


_raw_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def with_model(body: bytes, model: str) -> bytes:
    """A request's body under another model's name, everything else as it was written."""
    fields = _raw_decoder.decode(body)
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def check_model_name(name: str) -> str:
    """Raises ApiError: 400, for what cannot be the name of a model."""
    if not name or len(name) > LONGEST_MODEL_NAME or not name.isprintable():
        raise invalid("model", f"'model' must be a name of 1 to {LONGEST_MODEL_NAME} printable characters.")
    return name


def _model(value: Any, needed: bool) -> str:
    if value is None and not needed:
        return ""
    if value is None:
        raise invalid("model", "'model' is missing: name the model to use. `fcd ls` lists them.")
    if not isinstance(value, str):
        raise invalid("model", "'model' must be a string.")
    return check_model_name(value)


def _stream(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise invalid("stream", "'stream' must be true or false.")


def _keep_alive(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:f}" if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    try:
        if isinstance(text, str) and text:
            parse_duration(text)
            return text
    except ConfigError as error:
        raise invalid("keep_alive", f"'keep_alive': {error.message}") from None
    raise invalid("keep_alive", "'keep_alive' must be a duration such as '5m', or a number of seconds.")


def _refuse_duplicates(text: str) -> None:
    """Two readers that choose differently between equal keys would check one request and run another."""
    seen: set[str] = set()
    for key in _key_decoder.decode(text):
        if key in seen:
            raise ApiError(
                400, f"The request body has the key '{key[:100]}' twice.", code="invalid_json", param=key[:100]
            )
        seen.add(key)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _keys(pairs: list[tuple[str, Any]]) -> list[str]:
    return [key for key, _ in pairs]


_key_decoder = json.JSONDecoder(object_pairs_hook=_keys, parse_constant=_refuse_constant)
"""Decodes an object to the list of its keys, in order and with every repetition."""


def _not_json(why: str) -> ApiError:
    return ApiError(400, f"The request body is not valid JSON: {why}.", code="invalid_json")
