"""What people do with the `openai` client and curl, against a real daemon and the built-in model."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.e2e.harness import Home, chat

pytestmark = pytest.mark.slow


@pytest.fixture
def client(shared_daemon: Home) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{shared_daemon.url}/v1/", api_key="EMPTY", max_retries=0)


def test_the_readme_example(client: openai.OpenAI) -> None:
    completion = client.completions.create(model="guide", prompt="The daemon", max_tokens=16, temperature=0)
    assert completion.choices[0].text
    answer = client.chat.completions.create(
        model="guide", messages=[{"role": "user", "content": "Hello! What is your name?"}]
    )
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_the_module_level_client_of_the_seed(shared_daemon: Home) -> None:
    """openai.api_key and openai.base_url, as FastChat's own example has it."""
    openai.api_key, openai.base_url = "EMPTY", f"{shared_daemon.url}/v1/"
    completion = openai.completions.create(model="guide", prompt="Once upon a time", max_tokens=16)
    # No story: a model of conversations often ends there at once.
    assert completion.choices[0].finish_reason in ("stop", "length")
    assert completion.usage
    assert completion.usage.prompt_tokens > 0
    assert completion.usage.completion_tokens > 0
    chatted = openai.chat.completions.create(model="guide", messages=[{"role": "user", "content": "Hi"}])
    assert chatted.choices[0].message.content


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"guide", "guide-mini"} <= set(names)
    assert client.models.retrieve("guide").id == "guide"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("giude")
    assert "guide" in str(error.value)


def test_streaming_says_the_same_as_not_streaming(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "guide", "messages": [{"role": "user", "content": "What is fcd?"}], "seed": 3}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_response_is_the_chat_under_another_name(client: openai.OpenAI) -> None:
    responses: Any = client.responses
    chatted = client.chat.completions.create(model="guide", messages=[{"role": "user", "content": "What is fcd?"}])
    made = responses.create(model="guide", input="What is fcd?")
    assert made.output_text == chatted.choices[0].message.content
    assert made.usage is not None
    assert chatted.usage is not None
    assert made.usage.input_tokens == chatted.usage.prompt_tokens
    assert made.usage.output_tokens == chatted.usage.completion_tokens
    events = list(responses.create(model="guide", input="What is fcd?", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == made.output_text
    assert events[-1].type == "response.completed"
    again = responses.create(
        model="guide",
        input=[
            {"role": "user", "content": "My name is Ann."},
            *made.output,
            {"role": "user", "content": "Say it."},
        ],
        text={
            "format": {
                "type": "json_schema",
                "name": "n",
                "schema": {
                    "type": "object",
                    "properties": {"n": {"type": "integer"}},
                    "required": ["n"],
                    "additionalProperties": False,
                },
            }
        },
        max_output_tokens=64,
    )
    assert again.output_text.startswith("{")
    with pytest.raises(openai.BadRequestError) as error:
        responses.create(model="guide", input="x", previous_response_id=made.id)
    assert error.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as error:
        responses.create(model="guide", input="x", max_output_tokens=10**8)
    assert (error.value.param, error.value.code) == ("input", "context_length_exceeded")


def test_usage_counts_each_token(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="guide", prompt="One two", max_tokens=7, extra_body={"ignore_eos": True}, logprobs=1
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or []) == 7
    assert answer.choices[0].finish_reason == "length"


def test_stop_n_and_bias(client: openai.OpenAI, shared_daemon: Home) -> None:
    stopped = chat(shared_daemon.url, "Count from 1 to 9.", temperature=0, stop=["5"])
    assert "5" not in stopped["choices"][0]["message"]["content"]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    several = chat(shared_daemon.url, "Tell me something.", n=3, seed=1, temperature=1.0, max_tokens=16)
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    token = httpx.post(f"{shared_daemon.url}/tokenize", json={"model": "guide", "prompt": "x"}).json()["tokens"][-1]
    biased = chat(shared_daemon.url, "Hello", logit_bias={str(token): 100}, max_tokens=5)
    assert biased["choices"][0]["message"]["content"] == "xxxxx"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 10**6),
        ("n", 0),
        ("max_tokens", -1),
        ("temperature", 1e9),
        ("temperature", "hot"),
        ("top_p", 2),
        ("stop", ["x"] * 10**4),
        ("logit_bias", {"x": 1}),
        ("top_logprobs", 10**9),
        ("messages", []),
        ("messages", "hello"),
        ("stream", "yes"),
        ("audio", {"voice": "x"}),
        ("no_such_field", 1),
    ],
)
def test_a_bad_field_is_named(shared_daemon: Home, field: str, value: Any) -> None:
    body = {"model": "guide", "messages": [{"role": "user", "content": "Hello"}], field: value}
    answer = httpx.post(f"{shared_daemon.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].split("[")[0].split(".")[0] == field
    assert error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b'"text"',
        b'{"model": "guide", "prompt": NaN}',
        b'{"model": 3}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"model": ' + b"[" * 100_000,
    ],
    ids=["empty", "not JSON", "list", "string", "NaN", "model not a string", "not UTF-8", "deep", "deep in a field"],
)
def test_a_bad_body_is_refused_in_openais_shape(shared_daemon: Home, path: str, content: bytes) -> None:
    answer = httpx.post(
        f"{shared_daemon.url}{path}", content=content, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "Traceback" not in answer.text
    assert httpx.get(f"{shared_daemon.url}/health").status_code == 200


def test_an_unknown_model_names_the_near_one(shared_daemon: Home) -> None:
    answer = httpx.post(
        f"{shared_daemon.url}/v1/chat/completions",
        json={"model": "gude", "messages": [{"role": "user", "content": "x"}]},
    )
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "guide" in error["message"]


def test_a_prompt_over_the_context_is_refused_with_the_numbers(shared_daemon: Home) -> None:
    answer = httpx.post(
        f"{shared_daemon.url}/v1/chat/completions",
        json={"model": "guide", "messages": [{"role": "user", "content": "word " * 5000}]},
        timeout=60,
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]


def test_foreign_hosts_and_origins_are_refused(shared_daemon: Home) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        answer = httpx.get(f"{shared_daemon.url}/v1/models", headers=headers)
        assert answer.status_code == 403, headers
        assert "access-control-allow-origin" not in answer.headers
