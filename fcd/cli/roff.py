"""Writing man pages: the few macros that they need, with everything escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Page:
    """One page of the manual, built from top to bottom."""

    def __init__(self, name: str, section: int, summary: str, version: str) -> None:
        self._lines = [
            f'.TH "{escape(name).upper()}" "{section}" "" "fcd {version}" "fcd manual"',
            ".SH NAME",
            f"{escape(name)} \\- {escape(summary)}",
        ]

    def heading(self, text: str) -> None:
        self._lines.append(f'.SH "{escape(text)}"')

    def subheading(self, text: str) -> None:
        self._lines.append(f'.SS "{escape(text)}"')

    def paragraph(self, text: str) -> None:
        self._lines += [".PP", inline(text)]

    def term(self, term: str, text: str) -> None:
        """A term in bold, and what it means, indented; `term` may hold `*bold*` and `_italic_` marks of its own."""
        self._lines += [".TP", term if "\\f" in term else bold(term), inline(text) or "\\&"]

    def example(self, text: str) -> None:
        self._lines += [".PP", ".RS 4", ".nf"]
        self._lines += [_line(escape(line)) for line in text.splitlines()]
        self._lines += [".fi", ".RE"]

    def synopsis(self, text: str) -> None:
        self._lines += [".PP", _line(text)]

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def escape(text: str) -> str:
    """Text as it is to be read: backslashes, hyphens and quotation marks keep their look."""
    return (
        text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace('"', "\\(dq")
    )


def inline(text: str) -> str:
    """A sentence; what stands between backticks becomes bold."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    shown = "".join(bold(part) if number % 2 else escape(part) for number, part in enumerate(parts))
    return _line(shown)


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def italic(text: str) -> str:
    return f"\\fI{escape(text)}\\fR"


def joined(parts: Iterable[str], between: str = ", ") -> str:
    return between.join(parts)


def _line(text: str) -> str:
    """A line that starts with a dot or a quotation mark is text all the same."""
    return f"\\&{text}" if text.startswith((".", "'")) else text
