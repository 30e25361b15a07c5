from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tui.markdown.flatten import parse, sanitise
from tui.markdown.splitter import Splitter

TRICKY = [
    "# Title\n\nSome *prose* with `code` and\na second line.\n\nSetext\n===\n\nMore\n---\n\n***\nend",
    "```python\ndef f(x):\n    return x\n```\n\nAfter.\n\n~~~\nopen ```\n\nfence",
    "1. one\n2. two\n\n   ```sh\n   ls -l\n   ```\n3. three\n\n   still three\n10) other\n11) list\n",
    "- a\n- b\n  - c\n    - d\n\n    text in d\n- e\n\n\n- f\n* g\n+ h\nlazy\n",
    "- [ ] todo\n- [x] done\n- [X] *also*\n-\n- \n- last",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n| `x|y` | **z** |\n| lone\n\nafter\n\n| x | y |\n|---|---|\n> quote",
    "a | b\n- | -\n1 | 2\n3 | 4\n- item | x\n- | -\n",
    "text\n- |\n- | -\n\n- foo | bar\n--- | ---\n1 | 2",
    "> quote\n> - item\n>\n> - other\nlazy\n\n> > deep\n> back\n\nout",
    "<div>\nraw <b>html</b>\n\n</div>\n\n<!-- a\n\ncomment -->\n\npara <br> line <i>x</i>\n",
    'See [docs][d] and [d].\n\n[d]: https://example.org "Title"\n\nLater [d].',
    '[a]: /x\n"multi\nline"\n\n[a] text\n\n- [a]: /y\n- b',
    "    indented code\n\n    more\n\npara\n    not code\n\n- a\n\n      code in item\n",
    "Line one\\\nbreak  \nhard\n\n![alt](pic.png) [link](http://x.y 'z') <http://auto.link>\n",
    "- a\n   - b\n    - c\n     - d\n- e\n    - f\n  - g\n",
    "  - indented\n- less\n    - more\n",
    "1. a\n   - b\n2. c\n\n1. d\n1. e\n0. f\n- - - \n* * x\n",
    "| a |\n|---|\n| 1 |\n    | indented |\n- list\n| 2 |\n",
    "```\n\n\n```\n````md\n```\ninner\n```\n````\n ```\n indented fence\n ```\n```x\n`` `\n``",
    "\ttab code\n\n-\ttabbed item\n\n\tinside\n-\tother\n",
    "caf\u00e9 \x1b[31mred\x1b[0m\r\n\u65e5\u672c\u8a9e **\u592a\u5b57** \U0001f469\u200d\U0001f680\n",
    "***bold italic** mixed*\n~~gone~~ a*b*c __x__\n\n#no heading\n####### seven\n## ok ##\n",
]

PIECES = st.sampled_from(
    [
        "- ", "* ", "1. ", "2) ", "> ", "# ", "```", "~~~", "| ", "|", "---", "===", "\n", "\n", "\n\n", "    ", "  ",
        " ", "a", "b c", "**", "`", "<div>", "</div>", "-", ":-", "[x]", "[ ] ", "\t", "\\", "1", ".", "<!--", "-->",
    ]
)  # fmt: skip


def split_at(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def check(text: str, pieces: list[str]) -> None:
    splitter = Splitter()
    written = ""
    for piece in pieces:
        before = list(splitter.closed)
        splitter.feed(piece)
        written += piece
        assert splitter.closed[: len(before)] == before
        if "]:" not in text:
            assert splitter.blocks == parse(written)
    assert splitter.finish() == parse(text)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(TRICKY), st.lists(st.integers(0, 10_000), max_size=12))
def test_streamed_document_equals_full_parse(text: str, cuts: list[int]) -> None:
    check(text, split_at(text, cuts))


def test_every_document_streamed_character_by_character() -> None:
    for text in TRICKY:
        check(text, list(text))


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=40))
@example(["- ", "|", "\n", "- ", "|", "-"])
@example(["```", "| ", "\n", ":-"])
def test_any_mixture_of_markup_equals_full_parse(pieces: list[str]) -> None:
    check("".join(pieces), pieces)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TRICKY), st.sampled_from(TRICKY), st.integers(1, 9))
def test_documents_joined(first: str, second: str, size: int) -> None:
    text = first + "\n\n" + second
    check(text, [text[index : index + size] for index in range(0, len(text), size)])


def test_only_the_tail_is_open() -> None:
    splitter = Splitter()
    splitter.feed("".join(f"- item {number}\n" for number in range(200)))
    assert len(splitter.open) == 1
    splitter.feed("\nA paragraph.\n\nAnother")
    assert len(splitter.open) == 2
    assert len(splitter.closed) == 200
    splitter.feed(" line\n")
    assert len(splitter.open) == 1


def test_control_characters_never_survive() -> None:
    assert sanitise("a\x1b[2Jb\x9bc\r\n\td\x7f\x00") == "a[2Jbc\n\td"


def test_numbers_go_on_across_a_cut() -> None:
    splitter = Splitter()
    for number in range(1, 6):
        splitter.feed(f"1. item {number}\n")
    assert [block.marks[0].text for block in splitter.finish()] == ["1.", "2.", "3.", "4.", "5."]
