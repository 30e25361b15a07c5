"""Markdown that is still being written, to blocks, without parsing again what cannot change any more.

After every `feed`, `closed + open` is what a parse of the whole text so far would give. Only the open tail is parsed:
the last block, the last item of a top-level list, the rows of a table or the lines of a fence that are new. One thing
can reach back: a reference definition (`[name]: url`); where there is one, `finish` parses the whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from markdown_it.token import Token

from tui.markdown.flatten import flatten, is_blank, parse, sanitise, tokenise
from tui.markdown.model import Block, Inline, Table


@dataclass(slots=True)
class _Fence:
    marker: str
    language: str
    content: int
    """Offset of the first line of code."""
    scanned: int
    """Offset of the first line that may still be the closing one."""


@dataclass(slots=True)
class _OpenTable:
    head: str
    """The header and delimiter lines."""
    scanned: int
    """Offset of the first row that is not among `rows`."""
    rows: list[tuple[Inline, ...]] = field(default_factory=list)


class Splitter:
    """Feed it text as it comes; read `closed` (only ever grows, until `finish`) and `open` (replaced by each feed)."""

    def __init__(self) -> None:
        self.closed: list[Block] = []
        self.open: list[Block] = []
        self.text = ""
        self._start = 0
        self._blank_before = True
        self._number: int | None = None
        self._fence: _Fence | None = None
        self._table: _OpenTable | None = None

    @property
    def blocks(self) -> list[Block]:
        return self.closed + self.open

    def feed(self, text: str) -> None:
        """Take more of the document."""
        self.text += sanitise(text)
        while self._advance():
            pass

    def finish(self) -> list[Block]:
        """The document is complete: every block, as a parse of all of it gives."""
        self.closed = parse(self.text) if "]:" in self.text else self.blocks
        self.open = []
        return self.closed

    def _advance(self) -> bool:
        """One step; whether there is more to do."""
        if self._fence is not None:
            return self._grow_fence(self._fence)
        if self._table is not None:
            return self._grow_table(self._table)
        return self._parse_tail()

    def _parse_tail(self) -> bool:
        tail = self.text[self._start :]
        lines = tail.split("\n")
        tokens = tokenise(tail)
        blocks = flatten(tokens, lines, blank_before=self._blank_before, first_number=self._number)
        cut, number = self._find_cut(tokens, lines)
        if cut > 0:
            self.closed += [block for line, block in blocks if line < cut]
            self._start += sum(len(line) + 1 for line in lines[:cut])
            self._blank_before = is_blank(lines[cut - 1])
            self._number = number
        self.open = [block for line, block in blocks if line >= cut]
        return self._enter_mode(tokens, cut, lines)

    def _find_cut(self, tokens: list[Token], lines: list[str]) -> tuple[int, int | None]:
        """The last line before which nothing can change any more, and the number of the list item that it opens."""
        complete = len(lines) - 1
        last: tuple[int, Token] | None = None
        for index, token in enumerate(tokens):
            if token.level == 0 and token.nesting >= 0 and token.map and token.map[0] < complete:
                last = index, token
        if last is None:
            return 0, self._number
        index, token = last
        line = token.map[0] if token.map else 0
        number = self._number if line == 0 else None
        if token.type in ("bullet_list_open", "ordered_list_open"):
            return _last_item(tokens, index, lines, number)
        return line, number

    def _enter_mode(self, tokens: list[Token], cut: int, lines: list[str]) -> bool:
        token = _top_token_at(tokens, cut)
        complete = len(lines) - 1
        if token is None or token.map is None or token.map[0] >= complete:
            return False
        first = lines[cut]
        after = self._start + len(first) + 1
        if token.type == "fence" and _starts_at_margin(first) and "|" not in first:  # it could be a table's header
            language = token.info.split()[0] if token.info.split() else ""
            self._fence = _Fence(token.markup, language, after, after)
            return True
        if token.type == "table_open" and cut + 1 < complete:
            head = f"{first}\n{lines[cut + 1]}\n"
            self._table = _OpenTable(head, self._start + len(head))
            return True
        return False

    def _grow_fence(self, fence: _Fence) -> bool:
        end = self.text.find("\n", fence.scanned)
        while end >= 0:
            if _closes(self.text[fence.scanned : end], fence.marker):
                self.closed.append(self._code(fence, fence.scanned))
                self._leave(end + 1)
                self._fence = None
                return True
            fence.scanned = end + 1
            end = self.text.find("\n", fence.scanned)
        last = self.text[fence.scanned :]
        unseen = not last.strip() or _closes(last, fence.marker)
        self.open = [self._code(fence, fence.scanned if unseen else len(self.text))]
        return False

    def _code(self, fence: _Fence, end: int) -> Block:
        return Block("code", language=fence.language, code=self.text[fence.content : end].removesuffix("\n"))

    def _grow_table(self, table: _OpenTable) -> bool:
        rest = self.text[table.scanned :]
        source = table.head + rest
        lines = source.split("\n")
        complete = len(lines) - 1
        tokens = tokenise(source)
        blocks = flatten(tokens, lines)
        parsed = blocks[0][1].table
        assert parsed is not None
        rows_end = max((token.map[1] for token in tokens[:1] if token.map), default=2)
        follows = any(line < complete for line, _ in blocks[1:])
        keep = rows_end if follows else min(rows_end, complete)
        count = max(0, keep - 2)
        open_rows = parsed.rows[count:]
        table.rows += parsed.rows[:count]
        table.scanned += sum(len(line) + 1 for line in lines[2:keep])
        block = Block("table", table=Table(parsed.header, (*table.rows, *open_rows), parsed.aligns))
        if follows:
            self.closed.append(block)
            self._leave(table.scanned)
            self._table = None
            return True
        self.open = [block, *(following for _, following in blocks[1:])]
        return False

    def _leave(self, start: int) -> None:
        self._start = start
        self._blank_before = False
        self._number = None
        self.open = []


def _closes(line: str, marker: str) -> bool:
    pattern = rf" {{0,3}}{re.escape(marker[0])}{{{len(marker)},}}[ \t]*"
    return re.fullmatch(pattern, line) is not None


def _top_token_at(tokens: list[Token], line: int) -> Token | None:
    for token in tokens:
        if token.level == 0 and token.map and token.map[0] == line and token.nesting >= 0:
            return token
    return None


def _last_item(tokens: list[Token], index: int, lines: list[str], number: int | None) -> tuple[int, int | None]:
    """Where the last item of the list at `tokens[index]` starts that is sure to be one, and its number.

    An item is passed over where the text before it could still matter: an indented one (its depth is measured from the
    list's first item) and one that could be a table's header.
    """
    opening = tokens[index]
    first_line = opening.map[0] if opening.map else 0
    best = first_line, number
    if not _starts_at_margin(lines[first_line]):
        return best
    ordered = opening.type == "ordered_list_open"
    start = opening.attrGet("start")
    current = number if number is not None and ordered else int(start) if start is not None else 1
    current -= 1
    for token in tokens[index + 1 :]:
        if token.level == 0:
            break
        if token.type != "list_item_open" or token.level != 1 or token.map is None:
            continue
        current += 1
        line = token.map[0]
        if line < len(lines) - 1 and _starts_at_margin(lines[line]) and "|" not in lines[line]:
            best = line, current if ordered else None
    return best


def _starts_at_margin(line: str) -> bool:
    return not line.startswith((" ", "\t"))
