"""What went wrong, told where the answer would be, with the key that mends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from textual.content import Content

from fcd.errors import ApiError, FcdError, ModelLoadError, NotRunning

_CODES = {
    "model_not_found": "pick_model",
    "context_length_exceeded": "new",
    "too_few_models": "pick_model",
    "out_of_memory": "pick_model",
    "out_of_range": "panel",
    "invalid_request": "panel",
    "unsupported_parameter": "panel",
}
_WORDS = {
    "pick_model": "choose another model",
    "new": "begin a new chat",
    "panel": "change the parameters",
    "retry": "try again",
    "start_daemon": "start the daemon",
}


def mending(error: FcdError, *, can_start: bool) -> list[str]:
    """Ids of the actions that help, the best first."""
    if isinstance(error, NotRunning):
        return ["start_daemon", "retry"] if can_start else ["retry"]
    if isinstance(error, ModelLoadError):
        return ["pick_model", "retry"]
    if isinstance(error, ApiError) and error.code in _CODES:
        return [_CODES[error.code], "retry"]
    return ["retry"]


def told(
    error: FcdError, key: Callable[[str], str], *, can_start: bool, names: Mapping[str, str] | None = None
) -> Content:
    """The error and its keys. `names` gives the ids of a screen whose actions have other ones."""
    parts: list[tuple[str, str] | str] = [(error.message, "$text-error")]
    if error.hint and not isinstance(error, NotRunning):
        parts.append((f"\n{error.hint}", "$foreground 80%"))
    parts.append("\n")
    for action in mending(error, can_start=can_start):
        known = (names or {}).get(action, action)
        parts += [(key(known), "bold $text-accent"), (f" {_WORDS[action]}   ", "$foreground 80%")]
    return Content.assemble(*parts)
