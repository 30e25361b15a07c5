"""Blocks to lines that fit a width, with hanging indents; and from lines back to the text that a person selected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from textual.content import Content, Span

from tui.glyphs import Glyphs
from tui.markdown.model import Block, Inline, Mark, SpanStyle

STYLES: dict[SpanStyle, str] = {
    "strong": "bold",
    "em": "italic",
    "code": "$text-accent",
    "strike": "strike",
    "link": "underline",
    "url": "$foreground 60%",
    "html": "$foreground 60%",
}
FAINT = "$foreground 40%"
MUTED = "$foreground 60%"
HEADINGS = ("bold underline $text-primary", "bold $text-primary", "bold", "bold", "bold", "bold")


class Line(NamedTuple):
    """One row of the screen.

    `joint` is what stands between it and the row above in the source: a line break, a space where a paragraph was
    wrapped, nothing where a word was. `indent` is how many leading characters were not written by the author.
    """

    content: Content
    joint: str = "\n"
    indent: int = 0


def to_content(inline: Inline, style: str = "") -> Content:
    """Styled text of one inline."""
    spans = [Span(span.start, span.end, STYLES[span.style]) for span in inline.spans]
    if style and inline.text:
        spans.insert(0, Span(0, len(inline.text), style))
    return Content(inline.text, spans)


class Row(NamedTuple):
    """A wrapped row, the joint to the row above, where in the text it starts, and how much of it is our margin."""

    content: Content
    joint: str = "\n"
    start: int = 0
    indent: int = 0


def wrap(content: Content, width: int) -> list[Row]:
    """Rows that fit."""
    rows: list[Row] = []
    start = 0
    for hard in content.split("\n", allow_blank=True) if "\n" in content.plain else [content]:
        if hard.cell_length <= width and "\t" not in hard.plain:
            rows.append(Row(hard, "\n", start))
        else:
            rows += _wrap_hard(hard, max(1, width), start)
        start += len(hard.plain) + 1
    return rows


def _wrap_hard(hard: Content, width: int, start: int) -> list[Row]:
    text = hard.plain
    if "\t" in text:
        return [Row(row, "\n" if index == 0 else " ", start) for index, row in enumerate(hard.wrap(width))]
    rows: list[Row] = []
    at = 0
    for row in hard.wrap(width):
        joint = "\n" if not rows else " " if text[at - 1] == " " else ""
        rows.append(Row(row, joint, start + at))
        at += len(row.plain)
        while text[at : at + 1] == " ":
            at += 1
    return rows


def prefixes(block: Block, glyphs: Glyphs) -> tuple[Content, Content]:
    """What stands left of a block: on its first row, and on the others."""
    first = [_mark(mark, glyphs, mark.first) for mark in block.marks]
    rest = [_mark(mark, glyphs, False) for mark in block.marks]
    return Content.assemble(*first), Content.assemble(*rest)


def _mark(mark: Mark, glyphs: Glyphs, drawn: bool) -> Content:
    if mark.kind == "quote":
        return Content.styled(f"{glyphs.quote} ", FAINT)
    if mark.kind == "number":
        text = mark.text
    elif mark.kind == "bullet":
        text = glyphs.bullets[mark.depth % len(glyphs.bullets)]
    else:
        text = glyphs.todo if mark.kind == "todo" else glyphs.done
    text = f" {text} "
    return Content.styled(text, "$text-accent") if drawn else Content(" " * len(text))


def gap_prefix(above: Block, below: Block, glyphs: Glyphs) -> Content:
    """The empty row between two blocks: the quotes that hold both go through it."""
    shared = 0
    for one, other in zip(above.marks, below.marks, strict=False):
        if one.kind != "quote" or other.kind != "quote":
            break
        shared += 1
    return Content.assemble(*[_mark(mark, glyphs, False) for mark in below.marks[:shared]])


def with_prefixes(rows: Sequence[Row], first: Content, rest: Content) -> list[Line]:
    """Put the prefixes before rows."""
    if not first.plain:
        return [Line(row.content, row.joint, row.indent) for row in rows]
    indent = len(rest.plain)
    lines = [Line(first + rows[0].content, rows[0].joint, 0)] if rows else []
    return lines + [Line(rest + row.content, row.joint, indent + row.indent) for row in rows[1:]]


def text_content(block: Block, room: int, glyphs: Glyphs) -> Content:
    """What a paragraph, heading, rule or piece of HTML says."""
    if block.kind == "rule":
        return Content.styled(glyphs.rule * min(room, 40), FAINT)
    if block.kind == "heading":
        return to_content(block.inline, HEADINGS[block.level - 1])
    return to_content(block.inline, MUTED if block.kind == "html" else "")


def selected_text(lines: list[Line], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The author's text between two positions (column, row), with wrapped rows joined again."""
    parts: list[str] = []
    for row in range(start[1], min(end[1], len(lines) - 1) + 1):
        line = lines[row]
        text = line.content.plain
        stop = end[0] if row == end[1] else len(text)
        begin = start[0] if row == start[1] else 0
        piece = text[max(begin, line.indent) : stop].rstrip()
        if parts:
            parts.append(line.joint)
        parts.append(piece)
    return "".join(parts)
