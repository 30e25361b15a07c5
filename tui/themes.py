"""fcd's own themes; every theme of Textual can be chosen beside them."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

from textual.color import Color, ColorParseError
from textual.theme import Theme

DARK = Theme(
    name="dark",
    primary="#7aa2c9",
    secondary="#8fb8a8",
    accent="#d7a65f",
    warning="#d7a65f",
    error="#d9707c",
    success="#8cb878",
    foreground="#d8d8d4",
    background="#16181c",
    surface="#1b1e23",
    panel="#22262c",
    dark=True,
    variables={"input-selection-background": "#7aa2c9 35%", "footer-key-foreground": "#d7a65f"},
)
LIGHT = Theme(
    name="light",
    primary="#2f5f8f",
    secondary="#3d7564",
    accent="#8a5a12",
    warning="#8a5a12",
    error="#a8323f",
    success="#3f7a2c",
    foreground="#26282b",
    background="#fafaf7",
    surface="#f2f2ee",
    panel="#e7e7e1",
    dark=False,
)
CONTRAST = Theme(
    name="contrast",
    primary="#66c7ff",
    secondary="#7dffcf",
    accent="#ffd75f",
    warning="#ffd75f",
    error="#ff7a7a",
    success="#7dff7d",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#262626",
    dark=True,
    text_alpha=1.0,
)
THEMES = (DARK, LIGHT, CONTRAST)
CYCLE = ("dark", "light", "contrast", "ansi-dark", "ansi-light")
ALIASES = {"textual-dark": "dark", "textual-light": "light", "ansi": "ansi-dark"}
"""Names that people write for these."""

_PLAIN = {field.name: field.type for field in fields(Theme) if field.name not in ("name", "variables")}
_COLOURS = {name for name in _PLAIN if name not in ("dark", "luminosity_spread", "text_alpha")}


def read_theme(path: Path) -> Theme:
    """A theme of one's own: a TOML file of Textual's theme fields (`primary = "#7aa2c9"`, `dark = true`, ...).

    Raises:
        ValueError: with a sentence that names the file and what is wrong in it.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    unknown = sorted(set(found) - set(_PLAIN))
    if unknown:
        raise ValueError(f"{path}: '{unknown[0]}' is no field of a theme; {', '.join(sorted(_PLAIN))} are.")
    if "primary" not in found:
        raise ValueError(f"{path}: 'primary' is missing.")
    for name, value in found.items():
        _check(path, name, value)
    return Theme(name=path.stem, **found)


def _check(path: Path, name: str, value: object) -> None:
    if name == "dark" and not isinstance(value, bool):
        raise ValueError(f"{path}: 'dark' is true or false.")
    if name in ("luminosity_spread", "text_alpha") and not isinstance(value, (int, float)):
        raise ValueError(f"{path}: '{name}' is a number.")
    if name in _COLOURS:
        try:
            Color.parse(str(value))
        except ColorParseError as error:
            raise ValueError(f"{path}: '{name}' is no colour: {value!r}.") from error


def user_themes(folder: Path) -> tuple[list[Theme], list[str]]:
    """The themes of a folder's `*.toml` files, and a sentence for each that cannot be used."""
    themes: list[Theme] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            themes.append(read_theme(path))
        except ValueError as error:
            problems.append(str(error))
    return themes, problems
