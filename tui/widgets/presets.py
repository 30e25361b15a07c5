"""Presets to choose from: those that the daemon keeps, and the profiles of this machine's config.toml."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from textual.content import Content

from fcd.errors import UsageError
from fcd.settings import PROFILE_RANGES, ModelSettings, Settings, is_profile
from fcd.wire.chats import NamedPreset
from tui.widgets.shelf import Rows, Shelf

if TYPE_CHECKING:
    from tui.app import FcdApp

_PROFILE = "config.toml "
"""Begins the id of a profile's row; a preset's name has no such beginning, as its row's id has another."""
_KEPT = "preset "


async def choose_preset(app: FcdApp) -> NamedPreset | None:
    """What a person takes, if anything. Raises FcdError: the daemon is not there."""
    presets, profiles = await app.link.connected().presets(), profiles_of(app.settings)
    if not presets and not profiles:
        app.notify(f"There are no presets yet: {app.key('panel')}, then ^e makes one.", markup=False)
        return None

    async def remove(chosen: str) -> Rows:
        if chosen.startswith(_PROFILE):
            raise UsageError(f"{chosen.removeprefix(_PROFILE)} stands in config.toml; `fcd config edit` changes it.")
        await app.link.connected().delete_preset(chosen.removeprefix(_KEPT))
        return preset_rows(await app.link.connected().presets(), profiles)

    hint = "enter take it   del remove it   esc close"
    chosen = await app.push_screen_wait(Shelf("Presets", preset_rows(presets, profiles), remove=remove, hint=hint))
    if chosen is None:
        return None
    if chosen.startswith(_PROFILE):
        return next((each for each in profiles if _PROFILE + each.name == chosen), None)
    return next((each for each in await app.link.connected().presets() if _KEPT + each.name == chosen), None)


def profiles_of(settings: Settings) -> list[NamedPreset]:
    """The tables `[models.NAME]` that say how a model is to be asked, as presets."""
    return [
        NamedPreset(name, model.system, _params(model)) for name, model in settings.models.items() if is_profile(model)
    ]


def _params(model: ModelSettings) -> dict[str, object]:
    params = {name: getattr(model, name) for name in PROFILE_RANGES}
    given: dict[str, object] = {name: value for name, value in params.items() if value is not None}
    return given | ({"stop": model.stop} if model.stop else {})


def preset_rows(presets: Iterable[NamedPreset], profiles: Iterable[NamedPreset]) -> Rows:
    """Rows of a list: what is kept first."""
    kept = [(_KEPT + preset.name, _row(preset)) for preset in presets]
    return kept + [(_PROFILE + preset.name, _row(preset) + _MARK) for preset in profiles]


_MARK = Content.styled("  config.toml", "$text-accent")


def _row(preset: NamedPreset) -> Content:
    facts = "  ".join(f"{name} {value}" for name, value in preset.params.items())
    begins = " ".join(preset.system.split())[:40]
    return Content.assemble(
        (f"{preset.name:<18} ", "bold"), (facts, "$foreground 70%"), (f"  {begins}", "$foreground 50%")
    )
