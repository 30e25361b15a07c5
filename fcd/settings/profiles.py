"""Which defaults a request by a name has."""

from __future__ import annotations

from fcd.settings.tables import PROFILE_FIELDS, ModelSettings, Settings

_MOST_ALIASES = 8


def is_profile(model: ModelSettings) -> bool:
    """Whether requests by this name have defaults of their own."""
    return any(getattr(model, name) not in (None, "", []) for name in PROFILE_FIELDS)


def profile_of(name: str, settings: Settings) -> ModelSettings | None:
    """The `[models.NAME]` table whose defaults a request by this name has; aliases and `@8bit` are seen through."""
    for _ in range(_MOST_ALIASES):
        if name in settings.models:
            return settings.models[name]
        plain = name.rpartition("@")[0] if name.endswith(("@8bit", "@4bit")) else name
        following = settings.aliases.get(name) or (plain if plain != name else None)
        if following is None:
            return None
        name = following
    return None
