"""Calls in a model's text, by table and against random texts and cuts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.worker.answer import AnswerReader, ReadAnswer
from daemon.worker.reasoning import ReasoningSplitter, ThinkTags
from daemon.worker.tools.events import CallArguments, CallBegin
from daemon.worker.tools.families import FamilyName, ToolFamily

NAMES = frozenset({"weather", "add"})
FAMILIES: tuple[FamilyName, ...] = ("hermes", "llama", "mistral", "mistral_args")
THINK = ThinkTags("<think>", "</think>")


def read(family: FamilyName, pieces: list[str], *, opened: bool | None = None) -> ReadAnswer:
    """`opened` None: the model does not think."""
    splitter = None if opened is None else ReasoningSplitter(THINK, opened=opened)
    reader, answer = AnswerReader(splitter, ToolFamily(family, True).parser(NAMES)), ReadAnswer()
    for piece in pieces:
        answer.add(reader.feed(piece))
    answer.add(reader.finish())
    assert reader.called == bool(answer.calls)
    return answer


def calls_of(answer: ReadAnswer) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


ZURICH = {"city": 'Zürich "X" {}[] </tool_call> \n'}
BODY = json.dumps(ZURICH)
TABLE: list[tuple[FamilyName, str, str, list[tuple[str, Any]]]] = [
    ("hermes", "Hello.\n", "Hello.\n", []),
    ("hermes", f'<tool_call>\n{{"name": "weather", "arguments": {BODY}}}\n</tool_call>', "", [("weather", ZURICH)]),
    (
        "hermes",
        'I look.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
        '<tool_call>{"arguments": {"a": [2, {"b": null}]}, "name": "add"}</tool_call>\nDone.',
        "I look.Done.",
        [("add", {"a": 1}), ("add", {"a": [2, {"b": None}]})],
    ),
    ("hermes", '<tool_call>{"name": "add"}</tool_call>', "", [("add", {})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": null}</tool_call>', "", [("add", {})]),
    ("hermes", '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("add", {"a": 1})]),
    ("hermes", '<tool_call>{"name": "rm", "arguments": {}}', '<tool_call>{"name": "rm", "arguments": {}}', []),
    ("hermes", "<tool_call>oops</tool_call> a < b", "<tool_call>oops</tool_call> a < b", []),
    ("hermes", "a <tool", "a <tool", []),
    ("llama", f'{{"name": "weather", "parameters": {BODY}}}', "", [("weather", ZURICH)]),
    ("llama", f' <|python_tag|>{{"name": "weather", "parameters": {BODY}}}', "", [("weather", ZURICH)]),
    (
        "llama",
        '{"type": "function", "name": "add", "parameters": {"a": 1}}; {"name": "add", "parameters": {"a": 2}}',
        "",
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
    ("llama", '{"answer": 42}', '{"answer": 42}', []),
    ("llama", "{ not json", "{ not json", []),
    ("llama", "The set {1}.", "The set {1}.", []),
    ("llama", 'Look: <|python_tag|>{"name": "add", "parameters": {}}', "Look:", [("add", {})]),
    ("llama", '{"name": "rm", "parameters": {}}', '{"name": "rm", "parameters": {}}', []),
    ("mistral", f'[TOOL_CALLS] [{{"name": "weather", "arguments": {BODY}}}]', "", [("weather", ZURICH)]),
    (
        "mistral",
        'Yes.[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "abc"}, {"name": "add", "arguments": {}}] bye',
        "Yes.bye",
        [("add", {"a": 1}), ("add", {})],
    ),
    ("mistral", "[TOOL_CALLS] nothing", "[TOOL_CALLS] nothing", []),
    ("mistral_args", f"[TOOL_CALLS]weather[ARGS]{BODY}", "", [("weather", ZURICH)]),
    (
        "mistral_args",
        'Yes.[TOOL_CALLS]add[CALL_ID]x12[ARGS]{"a": 1}[TOOL_CALLS]add[ARGS] {"a": 2}',
        "Yes.",
        [("add", {"a": 1}), ("add", {"a": 2})],
    ),
    ("mistral_args", "[TOOL_CALLS]rm[ARGS]{}", "[TOOL_CALLS]rm[ARGS]{}", []),
    ("mistral_args", "[TOOL_CALLS]add[ARGS]no", "[TOOL_CALLS]add[ARGS]no", []),
]


@pytest.mark.parametrize(("family", "text", "words", "calls"), TABLE)
def test_what_is_read(family: FamilyName, text: str, words: str, calls: list[tuple[str, Any]]) -> None:
    answer = read(family, [text])
    assert answer.text == words
    assert calls_of(answer) == calls


@pytest.mark.parametrize(("family", "text", "words", "calls"), TABLE)
def test_a_character_at_a_time_gives_the_same(
    family: FamilyName, text: str, words: str, calls: list[tuple[str, Any]]
) -> None:
    assert read(family, list(text)) == read(family, [text])


@pytest.mark.parametrize("opened", [None, False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cut_off_a_required_call_is_no_word(family: FamilyName, opened: bool | None) -> None:
    calls = {
        "hermes": '<tool_call>\n{"name": "add", "arguments": {',
        "llama": '<|python_tag|>{"name": "add", "parameters": {',
        "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {',
        "mistral_args": "[TOOL_CALLS]add[ARGS]{",
    }
    written = ("" if opened is None else "<think>hm</think>\n" if not opened else "hm</think>\n") + calls[family]
    for size in range(len(written) + 1):
        splitter = None if opened is None else ReasoningSplitter(THINK, opened=opened)
        reader = AnswerReader(splitter, ToolFamily(family, True).parser(NAMES), calls_only=True)
        answer = ReadAnswer()
        answer.add(reader.feed(written[:size]))
        answer.add(reader.finish())
        assert answer.text == ""
    assert [call.name for call in answer.calls] == ["add"]


def test_the_name_comes_before_the_arguments_and_both_before_the_end() -> None:
    reader = AnswerReader(None, ToolFamily("hermes", True).parser(NAMES))
    seen = [event for char in '<tool_call>{"name": "add", "arguments": {"a": 1' for event in reader.feed(char)]
    assert seen[0] == CallBegin(0, "add")
    assert "".join(event.text for event in seen[1:] if isinstance(event, CallArguments)) == '{"a": 1'


FRAGMENTS = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "<|py",
        "<think>",
        "</think>",
        '{"name": "add", "arguments": {"a": "x}"}}',
        '{"name": "add", "parameters": {"a": [1, "]"]}}',
        '{"arguments": {"q": 1}, "name": "weather"}',
        '{"name": "rm", "arguments": {}}',
        '{"name": ',
        '"add"',
        ', "arguments": {',
        "add",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        " ",
        "\n",
        "\\",
        '"',
        "word",
        "é🙂",
    ]
)


@st.composite
def cut_text(draw: st.DrawFn) -> tuple[str, list[str]]:
    text = "".join(draw(st.lists(FRAGMENTS, max_size=14)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return text, [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opened", [None, False, True])
@settings(max_examples=150, deadline=None)
@given(drawn=cut_text())
def test_cuts_make_no_difference(family: FamilyName, opened: bool | None, drawn: tuple[str, list[str]]) -> None:
    text, pieces = drawn
    assert read(family, pieces, opened=opened) == read(family, [text], opened=opened)


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet='ab {}[]"\\:,<>é\n', max_size=60), family=st.sampled_from(FAMILIES))
def test_text_without_markers_is_kept_whole(text: str, family: FamilyName) -> None:
    answer = read(family, list(text))
    assert answer.text == text
    assert not answer.calls


@settings(max_examples=100, deadline=None)
@given(
    arguments=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda c: st.lists(c, max_size=3),
            max_leaves=5,
        ),
        max_size=3,
    ),
    family=st.sampled_from(FAMILIES),
    ascii_only=st.booleans(),
)
def test_every_call_that_is_written_is_read(arguments: dict[str, Any], family: FamilyName, ascii_only: bool) -> None:
    body = json.dumps(arguments, ensure_ascii=ascii_only)
    text = {
        "hermes": f'<tool_call>\n{{"name": "add", "arguments": {body}}}\n</tool_call>',
        "llama": f'{{"name": "add", "parameters": {body}}}',
        "mistral": f'[TOOL_CALLS][{{"name": "add", "arguments": {body}}}]',
        "mistral_args": f"[TOOL_CALLS]add[ARGS]{body}",
    }[family]
    answer = read(family, list(text))
    assert (answer.text, calls_of(answer)) == ("", [("add", arguments)])
    assert answer.calls[0].arguments == body
