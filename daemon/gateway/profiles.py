"""Defaults that a name of config.toml gives to requests, for engines that take requests as they are.

fcd's own engine applies them in its worker. A request that leaves nothing out, or whose name has no defaults, stays
byte for byte what the client sent.
"""

from __future__ import annotations

import msgspec

from fcd.settings import PROFILE_RANGES, ModelSettings, Settings, is_profile, profile_of

_ENGINES = ("vllm", "command")
_CHAT = "/v1/chat/completions"
_PATHS = (_CHAT, "/v1/completions")
_INSTRUCTIONS = ("system", "developer")
_LIMITS = ("max_tokens", "max_completion_tokens")

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_messages = msgspec.json.Decoder(list[msgspec.Raw])


class _Role(msgspec.Struct):
    role: str = ""


_role = msgspec.json.Decoder(_Role)


def with_profile(body: bytes, path: str, name: str, settings: Settings) -> bytes:
    """The body of a request by this name, with what its profile says and it leaves out; `null` means left out."""
    path = path.partition("?")[0]
    if path not in _PATHS or not body:
        return body
    profile = profile_of(name, settings)
    if profile is None or not is_profile(profile) or not _takes_requests_as_they_are(profile):
        return body
    fields = {key: value for key, value in _fields.decode(body).items() if bytes(value) != b"null"}
    given = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in _defaults(profile, fields).items()}
    if path == _CHAT and profile.system:
        given |= _instructed(fields, profile.system)
    return msgspec.json.encode(fields | given) if given else body


def _takes_requests_as_they_are(profile: ModelSettings) -> bool:
    return profile.engine in _ENGINES or bool(profile.command)


def _defaults(profile: ModelSettings, fields: dict[str, msgspec.Raw]) -> dict[str, object]:
    found: dict[str, object] = {
        key: value
        for key in PROFILE_RANGES
        if key not in fields and key != "max_tokens" and (value := getattr(profile, key)) is not None
    }
    if profile.max_tokens is not None and not any(key in fields for key in _LIMITS):
        found["max_tokens"] = profile.max_tokens
    if profile.stop and "stop" not in fields:
        found["stop"] = profile.stop
    return found


def _instructed(fields: dict[str, msgspec.Raw], system: str) -> dict[str, msgspec.Raw]:
    """The messages with the profile's own first, unless they bring one; what is no list of messages is left alone."""
    try:
        messages = _messages.decode(fields["messages"])
        if any(_role.decode(message).role in _INSTRUCTIONS for message in messages):
            return {}
    except (KeyError, msgspec.DecodeError):
        return {}
    first = msgspec.Raw(msgspec.json.encode({"role": "system", "content": system}))
    return {"messages": msgspec.Raw(msgspec.json.encode([first, *messages]))}
