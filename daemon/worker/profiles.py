"""Defaults that a name of config.toml gives to requests which leave them out: `[models.NAME] system = ..., ...`."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from msgspec.structs import replace

from daemon.engines.base import GenerationRequest
from fcd.settings import PROFILE_RANGES, ModelSettings, Settings, is_profile, profile_of
from fcd.wire.openai import ChatRequest, CompletionRequest
from fcd.wire.openai_chat import Message

Asked = TypeVar("Asked", ChatRequest, CompletionRequest)

_SAMPLING = tuple(name for name in PROFILE_RANGES if name != "max_tokens")
_MOST_ALIASES = 8
_INSTRUCTIONS = ("system", "developer")


class Profiles:
    """What each name that a request may use brings along."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._any = any(is_profile(model) for model in settings.models.values())

    def of(self, name: str) -> ModelSettings | None:
        """The profile of a name, None for most."""
        found = profile_of(name, self._settings) if self._any else None
        return found if found is not None and is_profile(found) else None

    def plain_name(self, name: str, known: Collection[str]) -> str:
        """The one of `known` that a name means, itself or as an alias; empty when it means none."""
        for _ in range(_MOST_ALIASES):
            if name in known:
                return name
            if name not in self._settings.aliases:
                break
            name = self._settings.aliases[name]
        return ""

    def chat(self, asked: ChatRequest) -> ChatRequest:
        """The request with the profile's system message and sampling where it brings none of its own."""
        profile = self.of(asked.model)
        if profile is None:
            return asked
        asked = _filled(asked, profile)
        if profile.system and not any(message.role in _INSTRUCTIONS for message in asked.messages):
            asked = replace(asked, messages=[Message(role="system", content=profile.system), *asked.messages])
        return asked

    def completion(self, asked: CompletionRequest) -> CompletionRequest:
        """The same for a completion, which has no system message."""
        profile = self.of(asked.model)
        return asked if profile is None else _filled(asked, profile)

    def limit(self, name: str) -> int | None:
        """The longest answer to a request by this name that sets no limit."""
        profile = self.of(name)
        return None if profile is None else profile.max_tokens

    def capped(self, asked: ChatRequest, request: GenerationRequest) -> GenerationRequest:
        """The engine's request with the profile's limit, where the client set none."""
        limit = None if asked.limit is not None else self.limit(asked.model)
        if limit is None or limit >= request.params.max_tokens:
            return request
        params = replace(request.params, max_tokens=limit, min_tokens=min(request.params.min_tokens, limit))
        return replace(request, params=params)


def _filled(asked: Asked, profile: ModelSettings) -> Asked:
    given = {name: getattr(profile, name) for name in _SAMPLING if getattr(asked, name) is None}
    if asked.stop is None and profile.stop:
        given["stop"] = list(profile.stop)
    return replace(asked, **given)
