"""Thinking told from the answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.worker.answer import AnswerReader, ReadAnswer
from daemon.worker.reasoning import ReasoningSplitter, ThinkTags, detect_reasoning

TAGS = ThinkTags("<think>", "</think>")


def split(pieces: list[str], *, opened: bool) -> tuple[str, str]:
    reader, answer = AnswerReader(ReasoningSplitter(TAGS, opened=opened), None), ReadAnswer()
    for piece in pieces:
        answer.add(reader.feed(piece, 1))
    answer.add(reader.finish())
    return answer.thinking, answer.text


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "content"),
    [
        ("<think>\nHm, so.\n</think>\n\nYes. ", False, "Hm, so.", "Yes. "),
        ("\nHm, so.\n</think>\n\nYes.", True, "Hm, so.", "Yes."),
        (" \n<think>a</think>b", False, "a", "b"),
        ("<think></think>b", False, "", "b"),
        ("<think>never ends ", False, "never ends", ""),
        ("never ends </thi", True, "never ends </thi", ""),
        ("no thinking <think>x</think>", False, "", "no thinking <think>x</think>"),
        ("<thin", False, "", "<thin"),
        ("<think>a</think>", False, "a", ""),
        ("", True, "", ""),
        ("  x", False, "", "  x"),
    ],
)
def test_table(text: str, opened: bool, thinking: str, content: str) -> None:
    assert split([text], opened=opened) == (thinking, content)
    assert split(list(text), opened=opened) == (thinking, content)


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.sampled_from(["<think>", "</think>", "<th", "</", " ", "\n", "a", "bc", "é"]), max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=8),
    opened=st.booleans(),
)
def test_cuts_make_no_difference(parts: list[str], cuts: list[int], opened: bool) -> None:
    text = "".join(parts)
    at = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[start:end] for start, end in zip([0, *at], [*at, len(text)], strict=True)]
    assert split(pieces, opened=opened) == split([text], opened=opened)


def test_tokens_inside_the_block_are_counted() -> None:
    reader = AnswerReader(ReasoningSplitter(TAGS, opened=False), None)
    for piece in ["<think>", "a", "b", "</think>", "c", "d"]:
        reader.feed(piece, 1)
    assert reader.reasoning_tokens == 4


def test_detection_looks_at_the_template_and_the_tokens_only() -> None:
    assert detect_reasoning("{{ messages }}", ()).tags is None
    assert detect_reasoning("{{ messages }}", ("<think>",)).tags is None
    assert detect_reasoning("{{ messages }}", ("<think>", "</think>")).tags == TAGS
    qwen = detect_reasoning("{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}", ())
    assert (qwen.tags, qwen.switches) == (TAGS, frozenset({"enable_thinking"}))
    assert qwen.opened_by("x<|assistant|>\n<think>\n")
    assert not qwen.opened_by("x<think>\n\n</think>\n\n")
    assert qwen.closed_by("x<think>\n\n</think>\n\n")
    assert not qwen.opened_by("x")
