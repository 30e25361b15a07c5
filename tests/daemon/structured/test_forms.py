"""The forms of tool calls: what each family's grammar lets through is what its parser reads."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from daemon.engines.base import Grammar
from daemon.engines.structured.compiler import StructuredCompiler
from daemon.worker.answer import AnswerReader, ReadAnswer
from daemon.worker.reasoning import ReasoningSplitter, ThinkTags
from daemon.worker.tools.families import FamilyName, ToolFamily
from daemon.worker.tools.grammar import Thinking, json_spec, tools_spec
from fcd.wire.openai_tools import JsonForm, OfferedTool, ToolUse
from tests.daemon.structured.harness import END, allowed, fits, with_compiler
from tests.tiny_models import make_tokenizer

FAMILIES: tuple[FamilyName, ...] = ("hermes", "llama", "mistral", "mistral_args")
THINK = ThinkTags("<think>", "</think>")
NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CITY = {"type": "object", "properties": {"city": {"enum": ["Bern", "Zürich"]}}, "required": ["city"]}
TOOLS = (OfferedTool("add", NUMBERS, False, "tools[0]"), OfferedTool("weather", CITY, True, "tools[1]"))


def use(*, required: bool = False, parallel: bool = True, tools: tuple[OfferedTool, ...] = TOOLS) -> ToolUse:
    return ToolUse(tools, required, parallel, ())


def call(family: FamilyName, name: str, arguments: str) -> str:
    return {
        "hermes": f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>',
        "llama": f'{{"name": "{name}", "parameters": {arguments}}}',
        "mistral": f'[TOOL_CALLS][{{"name": "{name}", "arguments": {arguments}}}]',
        "mistral_args": f"[TOOL_CALLS]{name}[ARGS]{arguments}",
    }[family]


def check(spec: Any, cases: list[tuple[str, bool]]) -> None:
    async def test(compiler: StructuredCompiler) -> None:
        grammar = await compiler.compile(spec)
        for text, fit in cases:
            assert fits(grammar, text) == fit, text

    with_compiler(test)


@pytest.mark.parametrize("family", FAMILIES)
def test_required_is_nothing_but_valid_calls(family: FamilyName) -> None:
    good = call(family, "add", '{"a": 1}')
    check(
        tools_spec(ToolFamily(family, True), use(required=True), None, None),
        [
            (good, True),
            (call(family, "weather", '{"city": "Zürich"}'), True),
            ("", False),
            ("Hello", False),
            (f"Hello {good}", False),
            (call(family, "add", '{"a": "x"}'), False),
            (call(family, "add", "{}"), False),
            (call(family, "remove", '{"a": 1}'), False),
            (call(family, "weather", '{"city": "Rome"}'), False),
        ],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_is_text_until_a_call_begins(family: FamilyName) -> None:
    good, wrong = call(family, "add", '{"a": 1}'), call(family, "add", '{"a": "x"}')
    check(
        tools_spec(ToolFamily(family, True), use(), None, None),
        [("", True), ("Hello, {you}.", True), (good, True), (wrong, False), ("No [list] and <b>", True)],
    )


def test_words_may_stand_beside_calls_where_the_family_has_marks() -> None:
    for family in ("hermes", "mistral_args"):
        good = call(family, "add", '{"a": 1}')
        check(
            tools_spec(ToolFamily(family, True), use(), None, None),
            [(f"I add.\n{good}\nDone.", True), (f"{good}\n{good}", True)],
        )


@pytest.mark.parametrize("family", ["hermes", "mistral", "mistral_args"])
def test_several_calls_are_a_choice(family: FamilyName) -> None:
    one, two = call(family, "add", '{"a": 1}'), call(family, "weather", '{"city": "Bern"}')
    both = {
        "hermes": f"{one}\n{two}",
        "mistral": one[:-1] + ", " + two.removeprefix("[TOOL_CALLS]["),
        "mistral_args": one + two,
    }[family]
    check(tools_spec(ToolFamily(family, True), use(required=True), None, None), [(one, True), (both, True)])
    alone = use(required=True, parallel=False)
    check(tools_spec(ToolFamily(family, True), alone, None, None), [(one, True), (both, False)])
    alone = use(parallel=False)
    check(tools_spec(ToolFamily(family, True), alone, None, None), [(one, True), (both, False)])


def test_a_llama_answer_may_hold_json_that_is_no_call() -> None:
    check(
        tools_spec(ToolFamily("llama", True), use(), None, None),
        [
            ('{"answer": {"name": 3}}', True),
            ("{}", True),
            (" \n{1, 2}", True),
            (' {"name": "x"}', False),
            ("\n Hello", True),
            ('{"name": "Bob"}', False),
            ('<|python_tag|>{"name": "add", "parameters": {"a": 1}}', True),
            ("Look: <|python_tag|>print(1)", False),
        ],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_json_and_calls_together(family: FamilyName) -> None:
    form = JsonForm(NUMBERS, False, "response_format.json_schema.schema")
    check(
        tools_spec(ToolFamily(family, True), use(), form, None),
        [('{"a": 3}', True), (call(family, "add", '{"a": 1}'), True), ("Hello", False), ('{"b": 3}', False)],
    )


def test_thinking_comes_before_the_form() -> None:
    form = JsonForm(NUMBERS, False, "p")
    check(
        json_spec(form, Thinking(THINK, opened=False)),
        [
            ('{"a": 1}', True),
            ('<think>\nHm {"b"}.\n</think>\n\n{"a": 1}', True),
            ('<think>Hm</think>{"b": 1}', False),
            ("<think>Hm</think>", False),
            ('Hm</think>{"a": 1}', False),
        ],
    )
    check(
        json_spec(form, Thinking(THINK, opened=True)),
        [('Hm.\n</think>\n\n{"a": 1}', True), ('{"a": 1}', False), ('\n</think>{"a": 1}', True)],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_after_thinking(family: FamilyName) -> None:
    good, wrong = call(family, "add", '{"a": 1}'), call(family, "add", '{"a": "x"}')
    for required in (False, True):
        check(
            tools_spec(ToolFamily(family, True), use(required=required), None, Thinking(THINK, opened=True)),
            [
                (f"I could {wrong}, no.</think>\n\n{good}", True),
                (f"Hm.</think>{wrong}", False),
                ("Hm.</think>Hello", not required),
            ],
        )


def random_answer(grammar: Grammar, seed: int, limit: int = 3000) -> str | None:
    """A walk over allowed tokens, each as likely as any other; None when it does not end."""
    choose, mask, ids = random.Random(seed), grammar.start(), []
    while not mask.finished and len(ids) < limit:
        # Where an end is possible it is taken, so that walks end.
        options = allowed(mask)
        token = END if END in options and choose.random() < 0.5 else choose.choice(sorted(options))
        assert mask.accept(token)
        ids.append(token)
    text: str = make_tokenizer().decode([i for i in ids if i != END], skip_special_tokens=False)
    return text if mask.finished else None


@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_a_required_form_lets_through_is_read_as_valid_calls(family: FamilyName) -> None:
    spec = tools_spec(ToolFamily(family, True), use(required=True), None, Thinking(THINK, opened=False))

    async def test(compiler: StructuredCompiler) -> None:
        grammar = await compiler.compile(spec)
        ended = 0
        for seed in range(25):
            text = random_answer(grammar, seed)
            if text is None:
                continue
            ended += 1
            splitter = ReasoningSplitter(THINK, opened=False)
            reader, answer = AnswerReader(splitter, ToolFamily(family, True).parser(use().names)), ReadAnswer()
            answer.add(reader.feed(text))
            answer.add(reader.finish())
            assert answer.calls, text
            assert answer.text == "", text
            for found in answer.calls:
                arguments = json.loads(found.arguments)
                assert (
                    isinstance(arguments["a"], int) if found.name == "add" else arguments["city"] in ("Bern", "Zürich")
                )
        assert ended >= 10

    with_compiler(test)
