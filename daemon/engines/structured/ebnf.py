"""Repairs to the grammar text that xgrammar makes of a JSON schema. Pure."""

from __future__ import annotations

import re
from typing import Final

CHARACTER: Final = r"[ !#-\[\]-\ud7ff\ue000-\U0010ffff]"
"""A character that may stand unescaped in a JSON string (RFC 8259, section 7); half a surrogate pair is none."""

_LOOSE: Final = (r"[^\"\\\r\n]", r"[^\0-\x1f\"\\\r\n]")
"""What xgrammar writes for that: in strings of limited length, and in others."""
_ANY_SPACE: Final = r"[ \n\r\t]*"
_SPACE_RULE: Final = r'json_space ::= "" | " " | "\n" [ \t]{0,20}'
"""Between the parts of a JSON text: nothing, a space, or a new line with its indentation. Models that are unsure would
otherwise go on with spaces for as long as they may."""
_LITERAL: Final = r'"(?:\\.|[^"\\])*"'
_CLASS: Final = re.compile(_LITERAL + "|(?P<it>" + "|".join(map(re.escape, _LOOSE)) + ")")
_SPACE: Final = re.compile(
    _LITERAL + r"|(?P<ahead>\(=\(" + re.escape(_ANY_SPACE) + ")|(?P<it>" + re.escape(_ANY_SPACE) + ")"
)
_CHARACTER_RULE: Final = re.compile(r"^(?P<name>\w+) ::= \(\(" + re.escape(CHARACTER) + r"\)\)$", re.MULTILINE)


def repair(text: str) -> str:
    """The same grammar, with its strings put right and its whitespace bounded.

    xgrammar lets the bytes of surrogates through, which are no UTF-8. Where a string has a `minLength` or `maxLength`,
    it lets control characters through, which are no JSON, and repeats the character as often as the limit says, so
    that a limit of 100 takes seconds to compile for a large vocabulary. Here the characters are JSON's, and the limit
    becomes a count of characters kept while matching.
    """
    text = _CLASS.sub(lambda found: CHARACTER if found["it"] else found[0], text)
    # What stands ahead is looked at only, and xgrammar takes no choices there.
    text = _SPACE.sub(lambda found: "json_space" if found["it"] else found[0], text)
    return _count_lengths(f"{text.rstrip()}\n{_SPACE_RULE}\n")


def _count_lengths(text: str) -> str:
    names = [found["name"] for found in _CHARACTER_RULE.finditer(text)]
    if not names:
        return text
    repeated = re.compile(
        _LITERAL + r"|\b(?P<name>" + "|".join(map(re.escape, names)) + r")\{(?P<low>\d+), (?P<high>-?\d+)\}"
    )
    added: list[str] = []

    def limited(found: re.Match[str]) -> str:
        name = found["name"]
        if name is None:
            return found[0]
        low, high = int(found["low"]), int(found["high"])
        rest = f"{name}_rest_{len(added)}"
        budget = "" if high < 0 else f"[max_chars={high - low}]"
        added.append(f"{rest}{budget} ::= {CHARACTER}*")
        first = f"{name}{{{low}, {low}}} " if low else ""
        return first if high == low else first + rest

    text = repeated.sub(limited, text)
    return "\n".join([text.rstrip("\n"), *added, ""])
