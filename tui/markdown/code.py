"""Code with colours. A fence that is being written is highlighted in pieces, and as a whole once it is complete."""

from __future__ import annotations

from functools import lru_cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token, _TokenType
from pygments.util import ClassNotFound
from textual.content import Content, Span
from textual.highlight import HighlightTheme

from tui.markdown.lines import FAINT, Row

_PIECE = 8
"""Lines highlighted again by each update of an open fence: at most twice this many."""
_LARGEST_WHOLE = 6_000
"""Characters; a longer fence keeps the colours that it got in pieces, so that its end does not hold up the screen."""
BACKGROUND = "on $foreground 6%"
MARGIN = 2


class CodeTheme(HighlightTheme):
    """Few colours: what a reader looks for is names, strings and comments."""

    STYLES = {
        Token.Comment: "$foreground 55% italic",
        Token.Keyword: "$text-primary",
        Token.Keyword.Constant: "$text-warning",
        Token.Operator.Word: "$text-primary",
        Token.Literal.Number: "$text-warning",
        Token.Literal.String: "$text-success",
        Token.Literal.String.Doc: "$text-success italic",
        Token.Name.Builtin: "$text-secondary",
        Token.Name.Class: "bold",
        Token.Name.Function: "bold",
        Token.Name.Decorator: "$text-accent",
        Token.Name.Tag: "$text-primary",
        Token.Name.Attribute: "$text-accent",
        Token.Generic.Heading: "bold",
        Token.Generic.Deleted: "$text-error",
        Token.Generic.Inserted: "$text-success",
        Token.Generic.Emph: "italic",
        Token.Generic.Strong: "bold",
    }


def highlighted(code: str, language: str) -> list[Content]:
    """One Content per line of code."""
    count = code.count("\n") + 1
    if not language:
        return [Content(line) for line in code.split("\n")]
    lines = list(_coloured(code, _lexer(language)).split("\n", allow_blank=True))
    lines += [Content("")] * (count - len(lines))
    return lines[:count]


def _coloured(code: str, lexer: Lexer) -> Content:
    """As textual.highlight does it, but with a lexer that is made once: making one takes longer than a few lines."""
    code = "\n".join(code.splitlines())
    spans: list[Span] = [Span(0, len(code), "$text")]
    start = 0
    for kind, token in lexer.get_tokens(code):
        end = start + len(token)
        style = _style(kind)
        if style:
            spans.append(Span(start, end, style))
        start = end
    return Content(code, spans)


@lru_cache(maxsize=32)
def _lexer(language: str) -> Lexer:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=True, tabsize=4)
    except ClassNotFound:
        return get_lexer_by_name("text", stripnl=False, ensurenl=True, tabsize=4)


@lru_cache(maxsize=512)
def _style(kind: _TokenType) -> str:
    while kind is not None:
        if style := CodeTheme.STYLES.get(kind):
            return style
        kind = kind.parent
    return ""


class CodeLayout:
    """Rows of one fence at one width, as it grows."""

    def __init__(self, language: str, width: int, *, shaded: bool) -> None:
        self._language = language
        self._width = width
        self._shaded = shaded
        self._done = [self._label()] if language else []
        self._offset = 0
        self._recent: list[Row] = []

    def draw(self, code: str, *, complete: bool) -> list[Row]:
        """All the rows for this state of the code."""
        if complete and len(code) <= _LARGEST_WHOLE:
            self._done = self._done[: 1 if self._language else 0]
            self._offset = 0
            return self._done + self._rows(highlighted(code, self._language))
        fresh = highlighted(code[self._offset :], self._language)
        source = code[self._offset :].split("\n") if len(fresh) > _PIECE else []
        cut = _quiet_line(source)
        if cut:
            self._offset += sum(len(line) + 1 for line in source[:cut])
            self._done += self._rows(fresh[:cut])
            fresh = fresh[cut:]
            self._recent = []
        rows = self._rows(fresh)
        for index, (before, after) in enumerate(zip(self._recent, rows, strict=False)):
            if before.content.is_same(after.content):
                rows[index] = before  # the same object is not painted again
        self._recent = rows
        return self._done + rows

    def _label(self) -> Row:
        return Row(self._filled(Content.styled(f" {self._language[: self._width - 2]}", FAINT)))

    def _rows(self, lines: list[Content]) -> list[Row]:
        room = max(8, self._width - MARGIN - 1)
        margin = Content(" " * MARGIN)
        rows: list[Row] = []
        for line in lines:
            expanded = line.expand_tabs(4) if "\t" in line.plain else line
            pieces = expanded.fold(room) if expanded.cell_length > room else [expanded]
            rows += [
                Row(self._filled(margin + piece), "" if index else "\n", 0, MARGIN)
                for index, piece in enumerate(pieces)
            ]
        return rows

    def _filled(self, content: Content) -> Content:
        if not self._shaded:
            return content
        return content.pad_right(max(0, self._width - content.cell_length)).stylize_before(BACKGROUND)


def _quiet_line(source: list[str]) -> int:
    """Where the colours are least likely to depend on what stands above: after an empty line, at the margin.

    0 where there is no such line, unless there are so many lines that any has to do.
    """
    for index in range(min(len(source), 2 * _PIECE) - 1, 1, -1):
        if source[index][:1].strip() and not source[index - 1].strip():
            return index
    return _PIECE if len(source) > 2 * _PIECE else 0
