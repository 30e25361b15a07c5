from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tui.test_splitter import PIECES, TRICKY, split_at
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.markdown.flatten import parse
from tui.markdown.layout import Layout
from tui.markdown.lines import Line, selected_text
from tui.markdown.splitter import Splitter
from tui.markdown.tables import fit

LONG = (
    "word another **bold thing** and `code` " * 30
    + "verylongword" * 20
    + "\n\n| a | b |\n|---|---|\n"
    + ("| cell with words | other |\n" * 12)
)
CODE = "```python\n" + 'def f(x):\n    """Doc."""\n    return x + 1\n\n' * 30 + "```\n\n" + "- item\n" * 9
DOCUMENTS = [*TRICKY, LONG, CODE]


def drawn(text: str, width: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    return Layout(width, glyphs).lines(parse(text), [])[0]


def plain(lines: list[Line]) -> list[str]:
    return [line.content.plain.rstrip() for line in lines]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DOCUMENTS), st.lists(st.integers(0, 10_000), max_size=15), st.sampled_from([20, 40, 80]))
def test_growing_layout_equals_layout_of_the_whole(text: str, cuts: list[int], width: int) -> None:
    splitter, layout = Splitter(), Layout(width, UNICODE)
    stable: list[str] = []
    for piece in split_at(text, cuts):
        splitter.feed(piece)
        lines, fixed = layout.lines(splitter.closed, splitter.open)
        assert plain(lines)[: len(stable)] == stable
        stable = plain(lines)[:fixed]
        if "]:" not in text:
            assert plain(lines) == plain(drawn(splitter.text, width))


@settings(max_examples=200, deadline=None)
@given(st.lists(PIECES, max_size=40), st.integers(20, 60), st.sampled_from([ASCII, UNICODE]))
def test_rows_fit_the_width(pieces: list[str], width: int, glyphs: Glyphs) -> None:
    for line in drawn("".join(pieces) + " longwordwithoutaspace" * 3, width, glyphs):
        marks = len(line.content.plain) - len(line.content.plain.lstrip(" 0123456789.)*-+|>xX[]•◦▪▎☐☑"))
        assert line.content.cell_length <= max(width, 8 + marks)


def test_ascii_draws_only_ascii() -> None:
    for text in DOCUMENTS:
        if text.isascii():
            assert all(line.content.plain.isascii() for line in drawn(text, 60, ASCII))


@pytest.mark.parametrize(
    ("natural", "room", "expected"),
    [([3, 4], 9, [3, 4]), ([30, 4], 20, [16, 4]), ([30, 30], 21, [11, 10]), ([9] * 9, 20, None)],
)
def test_columns_fit(natural: list[int], room: int, expected: list[int] | None) -> None:
    assert fit(natural, room) == expected


def test_list_hangs_and_quote_goes_on() -> None:
    assert plain(drawn("- alpha beta gamma\n  - delta\n\n> one\n>\n> two", 14)) == [
        " • alpha beta",
        "   gamma",
        "    ◦ delta",
        "",
        "▎ one",
        "▎",
        "▎ two",
    ]


def test_table_becomes_records_when_too_narrow() -> None:
    text = "| a | b | c | d | e |\n|-|-|-|-|-|\n| longish one | longish two | longish three | four | five |"
    lines = plain(drawn(text, 24))
    assert "a: longish one" in lines
    assert "e: five" in lines


def test_selection_gives_back_the_paragraph_as_written() -> None:
    lines = drawn("- alpha beta gamma delta epsilon\n- next", 16)
    assert selected_text(lines, (3, 0), (99, len(lines) - 1)) == "alpha beta gamma delta epsilon\n • next"


def test_long_code_lines_are_folded_not_cut() -> None:
    lines = drawn("```\n" + "x" * 50 + "\n```", 24)
    assert "".join(line.content.plain.strip() for line in lines) == "x" * 50
    assert selected_text(lines, (2, 0), (99, len(lines) - 1)) == "x" * 50
