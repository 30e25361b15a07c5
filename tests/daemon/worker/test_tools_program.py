"""Schemas, tools and thinking through the real worker program with random weights, by the `openai` client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import jsonschema
import openai
import psutil
import pytest

from tests.daemon.worker.test_program import worker
from tests.tiny_models import make_model, make_tokenizer

pytestmark = pytest.mark.slow

HERMES = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | tojson }}"
    " Answer in <tool_call></tool_call>.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA = (
    '{% if tools %}<|python_tag|> {"name": function name, "parameters": dictionary} {{ tools | tojson }}{% endif %}'
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.id }}{{ c.function | tojson }}{% endfor %}{% endfor %}"
)
TEMPLATES: dict[str, tuple[str, list[str], list[str]]] = {
    "hermes": (HERMES, [], ["<tool_call>", "</tool_call>", "<think>", "</think>"]),
    "llama": (LLAMA, ["<|python_tag|>"], []),
    "mistral": (MISTRAL, ["[TOOL_CALLS]", "[ARGS]"], []),
    "mistral_args": (MISTRAL + "{# name[ARGS] #}", ["[TOOL_CALLS]", "[ARGS]"], []),
    "plain": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n",
        [],
        [],
    ),
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "person", "description": "Write down.", "parameters": PERSON}},
    {"type": "function", "function": {"name": "now"}},
]
ASK: list[Any] = [{"role": "user", "content": "Hello"}]


def make(folder: Path, family: str) -> Path:
    template, special, plain = TEMPLATES[family]
    make_model("llama", folder, vocab_size=528, max_position_embeddings=4096)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens(plain)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(TEMPLATES))
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp(request.param)
    model = str(make(folder / "model", request.param))
    with worker(folder, "--no-register", "--model-names", request.param, "--dtype", "float32", model=model) as running:
        url = running.event("ready")["address"]
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def family_of(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def streamed(client: openai.OpenAI, **asked: Any) -> tuple[dict[str, Any], str | None]:
    """A streamed answer put together as the client's users do, checked for the order of its parts."""
    answer: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    reason = None
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        answer["content"] += choice.delta.content or ""
        answer["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                assert call.index == len(answer["calls"])
                assert (call.type, call.function.arguments) == ("function", "")
                answer["calls"].append([call.function.name, ""])
            else:
                assert call.function.name is None
                answer["calls"][call.index][1] += call.function.arguments
        reason = choice.finish_reason or reason
    return answer, reason


def whole(client: openai.OpenAI, **asked: Any) -> tuple[dict[str, Any], str | None]:
    choice = client.chat.completions.create(**asked).choices[0]
    message = choice.message
    calls = [[call.function.name, call.function.arguments] for call in message.tool_calls or []]
    thinking = getattr(message, "reasoning_content", None) or ""
    return {"content": message.content or "", "reasoning": thinking, "calls": calls}, choice.finish_reason


def check_calls(answer: dict[str, Any]) -> None:
    for name, arguments in answer["calls"]:
        if name == "person":
            jsonschema.validate(json.loads(arguments), PERSON)
        else:
            assert (name, json.loads(arguments)) == ("now", {})


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_required_calls_are_valid_and_streamed_as_they_are_whole(client: openai.OpenAI, seed: int) -> None:
    asked: dict[str, Any] = {
        "model": family_of(client),
        "messages": ASK,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "seed": seed,
        "max_tokens": 500,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    answer, reason = whole(client, **asked)
    assert reason == "tool_calls", answer
    assert len(answer["calls"]) == 1
    assert answer["content"] == ""
    check_calls(answer)
    assert streamed(client, **asked) == (answer, reason)


def test_a_named_function_is_the_one_that_is_called(client: openai.OpenAI) -> None:
    answer, reason = whole(
        client,
        model=family_of(client),
        messages=ASK,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "now"}},
        temperature=0,
        max_tokens=400,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    assert reason == "tool_calls"
    assert [name for name, _ in answer["calls"]] == ["now"]
    check_calls(answer)


def test_auto_never_gives_an_invalid_call(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": family_of(client), "messages": ASK, "tools": TOOLS, "max_tokens": 120, "seed": 4}
    answer, reason = whole(client, **asked)
    if reason == "tool_calls":
        check_calls(answer)
    assert streamed(client, **asked) == (answer, reason)


def test_a_history_of_calls_is_taken(client: openai.OpenAI) -> None:
    call = {"id": "call_0123456789abcdef", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    history: list[Any] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"},
    ]
    client.chat.completions.create(model=family_of(client), messages=history, tools=TOOLS, max_tokens=4)
    client.chat.completions.create(model=family_of(client), messages=history, max_tokens=4)


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_json_by_schema_is_valid(client: openai.OpenAI, temperature: int) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    answer = client.chat.completions.create(
        model=family_of(client),
        messages=ASK,
        response_format=form,  # type: ignore[arg-type]
        temperature=temperature,
        seed=1,
        n=3,
        max_tokens=400,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.message.content or ""), PERSON)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "#"}}}},
            "response_format.json_schema.schema",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": 3}}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    *TOOLS,
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"properties": {"a": {"pattern": "(("}}}},
                    },
                ]
            },
            "tools[2].function.parameters",
        ),
    ],
)
def test_a_bad_schema_is_a_400_within_two_seconds(client: openai.OpenAI, fields: dict[str, Any], param: str) -> None:
    url = str(client.base_url)
    for stream in (False, True):
        began = time.monotonic()
        body = {"model": family_of(client), "messages": ASK, "stream": stream, **fields}
        answer = httpx.post(f"{url}chat/completions", json=body, timeout=10)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert time.monotonic() - began < 2.0
    client.chat.completions.create(model=family_of(client), messages=ASK, max_tokens=2)


def test_no_helper_outlives_its_worker(tmp_path: Path) -> None:
    model = str(make(tmp_path / "model", "plain"))
    with worker(tmp_path, "--no-register", "--model-names", "m", "--dtype", "float32", model=model) as running:
        url = running.event("ready")["address"]
        body = {"model": "m", "messages": ASK, "response_format": {"type": "json_object"}, "max_tokens": 5}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code == 200
        helpers = psutil.Process(running.process.pid).children(recursive=True)
        assert helpers
        running.process.kill()
        running.process.wait(10)
        _, alive = psutil.wait_procs(helpers, timeout=5)
        assert alive == []
