"""What a judge is asked, and what becomes of what it says."""

from __future__ import annotations

import json

import pytest

from fcd.errors import FcdError
from fcd.judge import combine, judge_messages, read_item, read_verdict, turned


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Both fine, A clearer. [[A]]", "a"), ("First I thought [[A]], but no: [[B]]", "b"), ("[[ C ]]", "tie"),
        ("My verdict is B.", "b"), ("Winner: Assistant A", "a"), ("The verdict is a tie", None),
        ("I cannot say", None), ("", None),
    ],
)  # fmt: skip
def test_verdicts(text: str, verdict: str | None) -> None:
    assert read_verdict(text) == verdict


def test_only_agreement_of_both_orders_is_a_win() -> None:
    assert combine("a", turned("b")) == "a"
    assert combine("a", turned("a")) == "tie"
    assert combine("tie", turned("a")) == "tie"


def test_the_judge_sees_the_answers_in_the_order_given_and_no_names() -> None:
    text = judge_messages(["Q1", "Q2"], ["one", "two"], ["three", "four"], "the truth")[1]["content"]
    assert text.index("the truth") < text.index("one") < text.index("two") < text.index("three") < text.index("four")


def test_lines_of_a_prompt_file() -> None:
    assert read_item('{"prompt": "Hi?", "reference": ["4"]}', 1).reference == "4"
    assert read_item('{"turns": ["a", "b"], "answers": {"m": ["x", "y"]}}', 1).answers == {"m": ["x", "y"]}
    battle = {
        "stored": {"model_a": "A", "model_b": "B"},
        "turns": [{"prompt": "p", "a": {"text": "x"}, "b": {"text": "y"}}],
    }
    item = read_item(json.dumps(battle), 1)
    assert (item.prompts, item.answers) == (["p"], {"A": ["x"], "B": ["y"]})
    for line in ("nonsense", "[]", "{}", '{"prompt": ""}'):
        with pytest.raises(FcdError, match="Line 3"):
            read_item(line, 3)
