"""The characters that are drawn beside text, in two sets: Unicode, and ASCII for terminals that have no other."""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping, Sequence

from msgspec import Struct
from textual.scrollbar import ScrollBarRender


class Glyphs(Struct, frozen=True):
    ascii: bool
    bullets: tuple[str, ...]
    todo: str
    done: str
    quote: str
    rule: str
    column: str
    cross: str
    bar: str
    """Left of a message."""
    prompt: str
    dot: str
    """Before a state."""
    ring: str
    down: str
    left: str
    right: str
    folded: str
    unfolded: str
    cursor: str
    dash: str
    ellipsis: str
    separator: str
    pointer: str
    full: str
    empty: str
    sparks: str
    spinner: tuple[str, ...]
    enter: str
    up: str
    to: str
    plus_minus: str
    whiskers: tuple[str, str]
    """The ends of an interval."""


UNICODE = Glyphs(
    ascii=False,
    bullets=("•", "◦", "▪"),
    todo="☐",
    done="☑",
    quote="▎",
    rule="─",
    column="│",
    cross="┼",
    bar="▏",
    prompt="❯",
    dot="●",
    ring="○",
    down="▼",
    left="◂",
    right="▸",
    folded="▸",
    unfolded="▾",
    cursor="▌",
    dash="–",
    ellipsis="…",
    separator="·",
    pointer="▶",
    full="━",
    empty="─",
    sparks="▁▂▃▄▅▆▇█",
    spinner=("⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"),
    enter="⏎",
    up="↑",
    to="→",
    plus_minus="±",
    whiskers=("├", "┤"),
)

ASCII = Glyphs(
    ascii=True,
    bullets=("*", "-", "+"),
    todo="[ ]",
    done="[x]",
    quote="|",
    rule="-",
    column="|",
    cross="+",
    bar="|",
    prompt=">",
    dot="*",
    ring="o",
    down="v",
    left="<",
    right=">",
    folded="+",
    unfolded="-",
    cursor="_",
    dash="-",
    ellipsis="...",
    separator="-",
    pointer=">",
    full="#",
    empty="-",
    sparks="_.-=+*#@",
    spinner=("|", "/", "-", "\\"),
    enter="enter",
    up="up",
    to="->",
    plus_minus="+-",
    whiskers=("|", "|"),
)


def choose_glyphs(wanted_ascii: bool, environ: Mapping[str, str] | None = None) -> Glyphs:
    """ASCII where it is asked for, or where the terminal or its locale cannot show more."""
    env = os.environ if environ is None else environ
    if wanted_ascii or env.get("TERM") in ("linux", "dumb", "vt100", "vt220"):
        return ASCII
    encoding = env.get("LC_ALL") or env.get("LC_CTYPE") or env.get("LANG") or ""
    if not encoding:
        return UNICODE if "utf" in locale.getpreferredencoding(False).lower() else ASCII
    return ASCII if encoding in ("C", "POSIX") else UNICODE


class AsciiScrollBar(ScrollBarRender):
    """Textual's scroll bars end in parts of blocks; these are only coloured spaces."""

    VERTICAL_BARS = [" "] * 8
    HORIZONTAL_BARS = [" "] * 8
    BLANK_GLYPH = " "


def sparkline(values: Sequence[float], glyphs: Glyphs, top: float = 0.0) -> str:
    """One character per value, scaled to `top` or to the largest."""
    limit = top or max(values, default=0.0)
    if limit <= 0:
        return glyphs.sparks[0] * len(values)
    last = len(glyphs.sparks) - 1
    return "".join(glyphs.sparks[min(last, max(0, round(value / limit * last)))] for value in values)


def bar(fraction: float, width: int, glyphs: Glyphs) -> str:
    """A progress bar of `width` characters."""
    filled = min(width, max(0, round(fraction * width)))
    return glyphs.full * filled + glyphs.empty * (width - filled)
