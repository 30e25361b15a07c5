"""markdown-it's tokens to flat blocks. Nothing that was written is lost: HTML is shown as its source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tui.markdown.model import Align, Block, Inline, InlineSpan, Mark, MarkKind, SpanStyle, Table

_MAX_NESTING = 100
_PARSER = MarkdownIt("commonmark", {"maxNesting": _MAX_NESTING}).enable(["table", "strikethrough"])
_TASK = re.compile(r"\[([ xX])\](?= )")
_OPENERS: dict[str, SpanStyle] = {"strong_open": "strong", "em_open": "em", "s_open": "strike", "link_open": "link"}
_CLOSERS = frozenset({"strong_close", "em_close", "s_close", "link_close"})


def tokenise(text: str) -> list[Token]:
    """markdown-it's token stream, with inline children."""
    return _PARSER.parse(text, {})


def parse(text: str) -> list[Block]:
    """All the blocks of a complete document."""
    clean = sanitise(text)
    return [block for _, block in flatten(tokenise(clean), clean.split("\n"))]


_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


def sanitise(text: str) -> str:
    """Drop control characters, so that a model's words never reach the terminal as commands."""
    return text.translate(_CONTROL)


def is_blank(line: str) -> bool:
    """Whether a source line separates blocks: empty, or empty but for the marks of a quote."""
    return not line.strip(" \t>")


@dataclass(slots=True)
class _Item:
    """A list that is open, and its current item."""

    ordered: bool
    depth: int
    number: int
    delimiter: str
    fresh: bool = False
    task: MarkKind | None = None


class _Quote:
    __slots__ = ()


def flatten(
    tokens: Sequence[Token], lines: Sequence[str], *, blank_before: bool = True, first_number: int | None = None
) -> list[tuple[int, Block]]:
    """Leaf blocks with the source line that each starts on.

    Args:
        tokens: of `tokenise`.
        lines: the source, for the empty lines between blocks.
        blank_before: whether an empty line stands before `lines[0]`.
        first_number: the number of the first item, when the source goes on with an ordered list.
    """
    return _Flattener(tokens, lines, blank_before, first_number).run()


class _Flattener:
    def __init__(self, tokens: Sequence[Token], lines: Sequence[str], blank_before: bool, number: int | None) -> None:
        self._tokens = tokens
        self._lines = lines
        self._blank_before = blank_before
        self._first_number = number
        self._containers: list[_Item | _Quote] = []
        self._out: list[tuple[int, Block]] = []

    def run(self) -> list[tuple[int, Block]]:
        index = 0
        while index < len(self._tokens):
            index = self._step(index)
        return self._out

    def _step(self, index: int) -> int:
        token = self._tokens[index]
        kind = token.type
        line = token.map[0] if token.map else 0
        if kind in ("bullet_list_open", "ordered_list_open"):
            self._open_list(token, index)
        elif kind == "list_item_open":
            self._open_item(line, index)
        elif kind == "list_item_close":
            self._close_item()
        elif kind == "blockquote_open":
            self._containers.append(_Quote())
        elif kind in ("bullet_list_close", "ordered_list_close", "blockquote_close"):
            self._containers.pop()
        elif kind == "paragraph_open":
            self._emit(line, "paragraph", inline=self._paragraph(self._tokens[index + 1]))
            return index + 3
        elif kind == "heading_open":
            self._emit(line, "heading", inline=inline_of(self._tokens[index + 1]), level=int(token.tag[1]))
            return index + 3
        elif kind in ("fence", "code_block"):
            language = token.info.split()[0] if token.info.split() else ""
            self._emit(line, "code", language=language, code=token.content.removesuffix("\n"))
        elif kind == "html_block":
            self._emit(line, "html", inline=Inline(token.content.rstrip("\n")))
        elif kind == "hr":
            self._emit(line, "rule")
        elif kind == "table_open":
            return self._table(line, index)
        return index + 1

    def _open_list(self, token: Token, index: int) -> None:
        ordered = token.type == "ordered_list_open"
        start = int(token.attrGet("start") or 1) if token.attrGet("start") != 0 else 0
        if index == 0 and ordered and self._first_number is not None:
            start = self._first_number
        depth = sum(isinstance(container, _Item) and not container.ordered for container in self._containers)
        self._containers.append(_Item(ordered, depth, start - 1, token.markup))

    def _open_item(self, line: int, index: int) -> None:
        item = self._containers[-1]
        assert isinstance(item, _Item)
        item.number += 1
        item.fresh = True
        item.task = None
        self._item_line = line
        follower = self._tokens[index + 1 : index + 3]
        if [token.type for token in follower] == ["paragraph_open", "inline"]:
            match = _TASK.match(follower[1].content)
            if match is not None:
                item.task = "todo" if match[1] == " " else "done"

    def _close_item(self) -> None:
        item = self._containers[-1]
        assert isinstance(item, _Item)
        if item.fresh:
            self._emit(self._item_line, "paragraph")

    def _paragraph(self, token: Token) -> Inline:
        inline = inline_of(token)
        item = self._containers[-1] if self._containers else None
        if isinstance(item, _Item) and item.fresh and item.task is not None:
            return cut_inline(inline, 4)
        return inline

    def _table(self, line: int, index: int) -> int:
        rows: list[tuple[Inline, ...]] = []
        row: list[Inline] = []
        aligns: list[Align] = []
        while self._tokens[index].type != "table_close":
            token = self._tokens[index]
            if token.type == "tr_open":
                row = []
            elif token.type == "tr_close":
                rows.append(tuple(row))
            elif token.type == "th_open":
                aligns.append(_align(token))
            elif token.type == "inline":
                row.append(inline_of(token))
            index += 1
        self._emit(line, "table", table=Table(rows[0], tuple(rows[1:]), tuple(aligns)))
        return index + 1

    def _emit(self, line: int, kind: str, **fields: object) -> None:
        block = Block(kind, self._marks(), **fields)  # type: ignore[arg-type]
        if block.in_list:
            blank = is_blank(self._lines[line - 1]) if line > 0 else self._blank_before
            block = Block(kind, block.marks, blank, **fields)  # type: ignore[arg-type]
        self._out.append((line, block))

    def _marks(self) -> tuple[Mark, ...]:
        marks: list[Mark] = []
        for container in self._containers:
            if isinstance(container, _Quote):
                marks.append(Mark("quote", True))
                continue
            number = f"{container.number}{container.delimiter}" if container.ordered else ""
            kind: MarkKind = container.task or ("number" if container.ordered else "bullet")
            marks.append(Mark(kind, container.fresh, container.depth, number))
            container.fresh = False
        return tuple(marks)


def _align(token: Token) -> Align:
    style = str(token.attrGet("style") or "")
    return "center" if "center" in style else "right" if "right" in style else "left"


def inline_of(token: Token) -> Inline:
    """An `inline` token's text and styles."""
    parts: list[str] = []
    spans: list[InlineSpan] = []
    opened: list[tuple[int, SpanStyle, str]] = []
    length = 0
    for child in token.children or ():
        text, style = _text_of(child)
        if text:
            if style is not None:
                spans.append(InlineSpan(length, length + len(text), style))
            parts.append(text)
            length += len(text)
        elif child.type in _OPENERS:
            opened.append((length, _OPENERS[child.type], str(child.attrGet("href") or "")))
        elif child.type in _CLOSERS and opened:
            start, style_open, url = opened.pop()
            if start < length:
                spans.append(InlineSpan(start, length, style_open, url))
            if style_open == "link" and url and url.removeprefix("mailto:") != "".join(parts)[start:]:
                parts.append(f" ({url})")
                spans.append(InlineSpan(length, length + len(parts[-1]), "url"))
                length += len(parts[-1])
    return Inline("".join(parts), tuple(sorted(spans)))


def _text_of(child: Token) -> tuple[str, SpanStyle | None]:
    if child.type in ("softbreak", "hardbreak"):
        return "\n", None
    if child.type == "code_inline":
        return child.content, "code"
    if child.type == "html_inline":
        return ("\n", None) if re.fullmatch(r"<br\s*/?>", child.content) else (child.content, "html")
    if child.type == "image":
        url = str(child.attrGet("src") or "")
        return f"[image: {child.content or url}]", "link"
    return (child.content, None) if child.type in ("text", "text_special") else ("", None)


def cut_inline(inline: Inline, count: int) -> Inline:
    """Without its first `count` characters."""
    spans = (
        InlineSpan(max(0, span.start - count), span.end - count, span.style, span.url)
        for span in inline.spans
        if span.end > count
    )
    return Inline(inline.text[count:], tuple(spans))
