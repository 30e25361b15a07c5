"""Fields of requests for workers whose server passes over what it does not know: those are refused here by name."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Final

import msgspec

from daemon.dispatch import Target
from daemon.gateway.routing import with_model
from fcd.errors import ApiError

HARMLESS: Final = frozenset(
    {
        *("model", "keep_alive", "user", "metadata", "store", "service_tier", "safety_identifier"),
        *("prompt_cache_key", "prompt_cache_retention"),
    }
)
"""Fields that ask for nothing that a worker could fail to do, or that are read here."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STREAM_OPTIONS: Final = ("include_usage", "continuous_usage_stats")


def body_for(target: Target, path: str, model: str, body: bytes) -> bytes:
    """A request's body as a worker is to get it: under a name that it knows, with fields that it knows.

    Raises:
        ApiError: 400, naming a field that the worker would pass over.
    """
    known = target.fields.get(path.partition("?")[0])
    if known is not None and body:
        check_fields(body, known)
    name = target.names.get(model, model)
    if target.serves and name not in target.serves:
        name = target.serves[0]
    return with_model(body, name) if name != model and body else body


def check_fields(body: bytes, known: Collection[str]) -> None:
    """Refuse fields that are not `known`; `null` means absent.

    Raises:
        ApiError: 400, with the field's name in `param`.
    """
    fields = _fields.decode(body)
    for name, value in fields.items():
        if name not in known and name not in HARMLESS and bytes(value) != b"null":
            raise _unknown(name, known)
    options = fields.get("stream_options")
    if options is None or "stream_options" not in known or not bytes(options).startswith(b"{"):
        return
    for name in _fields.decode(options):
        if name not in _STREAM_OPTIONS:
            raise _unknown(f"stream_options.{name}", [f"stream_options.{each}" for each in _STREAM_OPTIONS])


def _unknown(name: str, known: Collection[str]) -> ApiError:
    near = difflib.get_close_matches(name[:64], list(known), n=1, cutoff=0.75)
    suggestion = f" Did you mean '{near[0]}'?" if near else ""
    shown = name[:200]
    return ApiError(400, f"Unknown parameter: '{shown}'.{suggestion}", code="unknown_parameter", param=shown)
