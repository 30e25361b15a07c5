"""fcd's own themes; every theme of Textual can be chosen beside them."""

from __future__ import annotations

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
