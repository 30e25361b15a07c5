"""What the OpenAI requests take, and that whatever else comes is a 400 that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcd.errors import ApiError
from fcd.wire.openai import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    parse_chat,
    parse_completion,
    parse_detokenize,
    parse_embedding,
    parse_tokenize,
)

MESSAGES = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "Hello", **fields}).encode()


def refusal(parse: Callable[[bytes], Any], body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value


def status_of(parse: Callable[[bytes], Any], body: bytes) -> int:
    try:
        parse(body)
    except ApiError as error:
        return error.status
    return 200


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
GOOD: list[dict[str, Any]] = [
    {},
    {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1},
    {"n": 16, "seed": -(2**63), "stop": ["a"] * 16, "logit_bias": {"5": -100, "6": 100.0}},
    {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
    {"logprobs": True, "top_logprobs": 20},
    {"max_tokens": 5, "max_completion_tokens": 5, "min_tokens": 5},
    {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x"},
    {"prompt_cache_key": "k", "keep_alive": "5m"},
    {"keep_alive": -1, "stop_token_ids": [1, 2], "ignore_eos": True, "add_special_tokens": False},
    {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"]},
    {"truncate_prompt_tokens": -1, "prompt_logprobs": 0, "chat_template_kwargs": {"enable_thinking": False}},
    {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    {"response_format": {"type": "json_object"}, "reasoning_effort": "low"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
]


@pytest.mark.parametrize("fields", GOOD)
def test_what_is_taken(fields: dict[str, Any]) -> None:
    parse_chat(chat(**fields))


def test_null_is_absent_in_every_optional_field() -> None:
    request = parse_chat(chat())
    names = [name for name in request.__struct_fields__ if name not in ("model", "messages")]
    assert parse_chat(chat(**dict.fromkeys(names))) == request
    plain = parse_completion(completion())
    names = [name for name in plain.__struct_fields__ if name not in ("model", "prompt")]
    assert parse_completion(completion(**dict.fromkeys(names))) == plain


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 10**6}, "n"),
    ({"n": 0}, "n"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"max_completion_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": "x" * 513}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"seed": 2**63}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"keep_alive": "soon"}, "keep_alive"),
    ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template"),
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [*MESSAGES, {"role": "user", "content": 3}]}, "messages[1].content"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "x", "zip": 1}]}, "messages[0].zip"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"model": ""}, "model"),
    ({"model": 3}, "model"),
    ({"no_such_field": 1}, "no_such_field"),
    ({"tools": {"type": "something"}}, "tools"),
    ({"tools": [{"type": "retrieval", "function": {"name": "a"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "x" * 65}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]}, "tools[0].function.parameters"),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
    ),
    ({"tools": [{"type": "function", "function": {"name": "a", "zip": 1}}]}, "tools[0].function.zip"),
    ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ({"tools": [TOOL] * 129}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
        "tool_choice.function.name",
    ),
    ({"parallel_tool_calls": True}, "parallel_tool_calls"),
    ({"tools": [TOOL], "min_tokens": 3}, "min_tokens"),
    ({"tools": [TOOL], "ignore_eos": True}, "ignore_eos"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ({"response_format": {"type": "something"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_object", "json_schema": {"name": "a"}}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "json_object"}, "min_tokens": 1}, "min_tokens"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_what_is_refused_names_the_field(fields: dict[str, Any], param: str) -> None:
    assert refusal(parse_chat, chat(**fields)).param == param


@pytest.mark.parametrize(
    "name",
    [
        "functions",
        "function_call",
        "audio",
        "modalities",
        "prediction",
        "verbosity",
        "web_search_options",
    ],
)
def test_what_is_not_offered_is_refused_by_name(name: str) -> None:
    error = refusal(parse_chat, chat(**{name: {"type": "something"}}))
    assert (error.param, error.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize(("name", "value"), [("functions", []), ("function_call", "none"), ("function_call", "auto")])
def test_the_old_form_of_tools_is_refused_even_where_it_asks_for_nothing(name: str, value: Any) -> None:
    error = refusal(parse_chat, chat(**{name: value}))
    assert (error.param, error.code) == (name, "unsupported_parameter")
    parse_chat(chat(**{name: None}))


def test_missing_fields_are_named() -> None:
    assert refusal(parse_chat, b'{"model": "m"}').param == "messages"
    assert refusal(parse_chat, json.dumps({"messages": MESSAGES}).encode()).param == "model"
    assert refusal(parse_completion, b'{"model": "m"}').param == "prompt"


def test_a_misspelt_field_names_the_near_one() -> None:
    assert "temperature" in refusal(parse_chat, chat(temprature=1)).message


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_name_the_field(value: str) -> None:
    body = chat(temperature=0.5).replace(b"0.5", value.encode())
    assert refusal(parse_chat, body).param == "temperature"


def test_a_key_given_twice_is_refused() -> None:
    body = chat(seed=1).replace(b'"seed": 1', b'"seed": 1, "seed": 2')
    assert refusal(parse_chat, body).param == "seed"


PARSERS: list[Callable[[bytes], Any]] = [
    parse_chat,
    parse_completion,
    parse_embedding,
    parse_tokenize,
    parse_detokenize,
]


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[1]",
        b'"x"',
        b"null",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"model":' + b"[" * 100_000,
        b'{"a":"\\ud800"}',
    ],
)
def test_what_is_no_request_is_refused(parse: Callable[[bytes], Any], body: bytes) -> None:
    refusal(parse, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "tokens",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "logit_bias",
        "seed",
        "logprobs",
        "top_logprobs",
        "max_tokens",
        "tools",
        "echo",
        "best_of",
        "metadata",
        "keep_alive",
        "dimensions",
        "chat_template_kwargs",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PARSERS), st.dictionaries(FIELDS | st.text(max_size=6), JSON, max_size=6))
def test_no_json_raises_anything_but_a_400(parse: Callable[[bytes], Any], fields: dict[str, Any]) -> None:
    for extra in ({}, {"model": "m", "messages": MESSAGES, "prompt": "x", "input": "x", "tokens": [1]}):
        assert status_of(parse, json.dumps({**extra, **fields}).encode()) in (200, 400)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PARSERS), st.binary(max_size=64))
def test_no_bytes_raise_anything_but_a_400(parse: Callable[[bytes], Any], body: bytes) -> None:
    refusal(parse, body)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "type", "text"]), JSON, max_size=5))
def test_no_message_raises_anything_but_a_400(message: dict[str, Any]) -> None:
    for content in (message, {"role": "user", "content": [message]}, {"role": "assistant", **message}):
        assert status_of(parse_chat, chat(messages=[content])) in (200, 400)


def test_prompts_of_every_kind() -> None:
    def prompts(prompt: Any) -> list[Any]:
        return list(parse_completion(completion(prompt=prompt)).prompts)

    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [(1, 2)]
    assert prompts([[1], [2, 3]]) == [(1,), (2, 3)]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 257}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"stream": True, "best_of": 2}, "best_of"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"min_tokens": 17}, "min_tokens"),
        ({"messages": MESSAGES}, "messages"),
    ],
)
def test_what_completions_refuse(fields: dict[str, Any], param: str) -> None:
    assert refusal(parse_completion, completion(**fields)).param == param


def test_completions_default_to_sixteen_tokens() -> None:
    assert parse_completion(completion()).limit == 16
    assert parse_completion(completion(max_tokens=0, echo=True)).limit == 0


def test_parts_are_joined_line_by_line() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = parse_chat(chat(messages=[{"role": "user", "content": parts}]))
    assert request.messages[0].text == "a\nb"


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "openai-fields.md").read_text(encoding="utf-8")
    for kind in (ChatRequest, CompletionRequest, EmbeddingRequest):
        for name in kind.__struct_fields__:
            assert f"`{name}`" in text or f"`{name}." in text, name
