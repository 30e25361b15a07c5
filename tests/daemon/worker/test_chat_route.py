"""POST /v1/chat/completions over real sockets, with a scripted engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fcd.errors import ApiError
from fcd.templates import get_template
from tests.daemon.worker.fake import CONTEXT, FakeEngine, Served, events_of, until, with_worker

PATH = "/v1/chat/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], **fields}


def test_a_whole_answer_with_exact_usage() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = (await client.post(PATH, json=body())).json()
        assert answer["object"] == "chat.completion"
        assert answer["id"].startswith("chatcmpl-")
        assert answer["model"] == "fake"
        assert answer["system_fingerprint"].startswith("fcd_")
        assert answer["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ]
        prompt = len("user:Hi|assistant:")
        assert answer["usage"] == {
            "prompt_tokens": prompt,
            "completion_tokens": 5,
            "total_tokens": prompt + 5,
            "prompt_tokens_details": {"cached_tokens": 3},
        }

    with_worker(test)


def test_streaming_role_deltas_finish_usage_done() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(stream=True, stream_options={"include_usage": True}))
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last = [data for _, data in events_of(answer.text)]
        assert last == "[DONE]"
        chunks = [json.loads(event) for event in events]
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
        *chunks, usage = chunks
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] == 5
        assert all(chunk["usage"] is None for chunk in chunks)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello"
        assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]

    with_worker(test)


def test_choices_are_interleaved_and_each_finishes() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(stream=True, n=3))
            whole = (await client.post(PATH, json=body(n=3))).json()
        chunks = [json.loads(data)["choices"][0] for _, data in events_of(answer.text) if data != "[DONE]"]
        order = [chunk["index"] for chunk in chunks if chunk["delta"].get("content")]
        assert order[:4] == [0, 1, 2, 0]
        assert [chunk["index"] for chunk in chunks if chunk["finish_reason"]] == [0, 1, 2]
        assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
        assert whole["usage"]["completion_tokens"] == 15

    with_worker(test)


def test_logprobs_in_openais_shape_with_bytes() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = (await client.post(PATH, json=body(logprobs=True, top_logprobs=2))).json()
            streamed = await client.post(PATH, json=body(logprobs=True, top_logprobs=2, stream=True))
            without = (await client.post(PATH, json=body(logprobs=True))).json()
        content = answer["choices"][0]["logprobs"]["content"]
        assert [entry["token"] for entry in content] == ["é", "!"]
        assert content[0]["bytes"] == [0xC3, 0xA9]
        assert [top["token"] for top in content[0]["top_logprobs"]] == ["é", "z"]
        chunks = [json.loads(data)["choices"][0] for _, data in events_of(streamed.text) if data != "[DONE]"]
        entries = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
        assert entries == content
        assert [entry["top_logprobs"] for entry in without["choices"][0]["logprobs"]["content"]] == [[], []]

    with_worker(test, lambda: FakeEngine("é!"))


def test_the_parameters_reach_the_engine() -> None:
    asked = body(
        temperature=0.3,
        top_p=0.9,
        top_k=7,
        min_p=0.05,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=-0.4,
        seed=11,
        stop=["x", "y"],
        stop_token_ids=[9],
        include_stop_str_in_output=True,
        ignore_eos=True,
        logit_bias={"65": -5},
        max_completion_tokens=9,
        min_tokens=2,
        skip_special_tokens=False,
        n=2,
    )

    async def test(served: Served) -> None:
        async with served.client() as client:
            assert (await client.post(PATH, json=asked)).status_code == 200
        request = served.engine.requests[0]
        params = request.params
        assert request.n == 2
        assert (params.temperature, params.top_p, params.top_k, params.min_p) == (0.3, 0.9, 7, 0.05)
        assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.2, 0.4, -0.4)
        assert (params.seed, params.stop, params.stop_token_ids) == (11, ("x", "y"), (9,))
        assert (params.include_stop, params.ignore_eos, params.skip_special_tokens) == (True, True, False)
        assert (params.logit_bias, params.max_tokens, params.min_tokens) == ({65: -5.0}, 9, 2)

    with_worker(test)


def test_max_tokens_defaults_to_the_rest_of_the_context() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            await client.post(PATH, json=body())
        request = served.engine.requests[0]
        assert request.params.max_tokens == CONTEXT - len(request.prompt_ids)

    with_worker(test)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "x" * CONTEXT}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": CONTEXT}, "messages", "context_length_exceeded"),
        ({"logit_bias": {"2000000000": 1}}, "logit_bias", "invalid_request"),
        ({"stop_token_ids": [2000000000]}, "stop_token_ids", "invalid_request"),
        ({"chat_template_kwargs": {"fail": True}}, "messages", "invalid_request"),
        ({"chat_template_kwargs": {"colour": 1}}, "chat_template_kwargs.colour", "unsupported_parameter"),
        ({"model": "other"}, "model", "model_not_found"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "unsupported_parameter"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}},
            "chat_template_kwargs.enable_thinking",
            "unsupported_parameter",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_engine(fields: dict[str, Any], param: str, code: str) -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            for stream in (False, True):
                answer = await client.post(PATH, json=body(**fields, stream=stream))
                assert answer.status_code == (404 if code == "model_not_found" else 400)
                error = answer.json()["error"]
                assert (error["param"], error["code"]) == (param, code)
                if code == "context_length_exceeded":
                    assert str(CONTEXT) in error["message"]
        assert served.engine.requests == []

    with_worker(test)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("unix", [False, True])
def test_a_client_that_leaves_ends_its_generation(stream: bool, unix: bool, tmp_path: Path) -> None:
    async def test(served: Served) -> None:
        client = served.unix_client() if unix else served.client()
        async with client:
            request = client.build_request("POST", PATH, json=body(stream=stream))
            import asyncio

            sending = asyncio.ensure_future(client.send(request, stream=True))
            await until(lambda: served.engine.running == 1)
            if stream:
                answer = await sending
                await anext(answer.aiter_raw())
                await answer.aclose()
            else:
                sending.cancel()
        await until(lambda: served.engine.running == 0)
        assert served.engine.cancelled == 1
        await until(lambda: served.worker.active == 0)

    with_worker(test, lambda: FakeEngine(hold=2), socket=tmp_path / "w.sock")


def test_an_error_before_the_first_token_keeps_its_status() -> None:
    error = ApiError(429, "The queue is full.", code="overloaded", retry_after=1)

    async def test(served: Served) -> None:
        async with served.client() as client:
            for stream in (False, True):
                answer = await client.post(PATH, json=body(stream=stream))
                assert answer.status_code == 429
                assert answer.headers["retry-after"] == "1"
                assert answer.json()["error"]["code"] == "overloaded"

    with_worker(test, lambda: FakeEngine(fail=error))


def test_an_error_in_mid_stream_is_an_event_and_no_done() -> None:
    def engine() -> FakeEngine:
        made = FakeEngine(fail=ApiError(500, "It broke.", code="internal_error"))
        made.fail_after = 2
        return made

    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(stream=True))
        assert answer.status_code == 200
        events = events_of(answer.text)
        assert events[-1][0] == "error"
        assert json.loads(events[-1][1])["error"]["message"] == "It broke."
        assert "[DONE]" not in answer.text

    with_worker(test, engine)


def test_a_slow_first_token_and_a_slow_gap_are_filled_with_comments() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client, client.stream("POST", PATH, json=body(stream=True)) as answer:
            text = ""
            async for piece in answer.aiter_text():
                text += piece
                if text.count(": waiting") >= 2:
                    served.engine.go.set()
        assert text.endswith("data: [DONE]\n\n")
        held = "abcde"[served.engine.hold or 0]
        assert text.index(": waiting") < text.index(f'"content":"{held}"')

    for hold in (0, 3):
        with_worker(test, lambda hold=hold: FakeEngine("abcde", hold=hold), comment_s=0.02)  # type: ignore[misc]


def test_a_named_template_brings_its_stops_and_one_bos() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(stop="!"))
        assert answer.status_code == 200
        request = served.engine.requests[0]
        assert request.params.stop == ("!", "<|im_end|>")
        text = served.engine.tokenizer.decode(request.prompt_ids)
        assert text == "^<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"

    def engine() -> FakeEngine:
        made = FakeEngine()
        made.info = msgspec.structs.replace(made.info, context_length=200)
        return made

    with_worker(test, engine, template=get_template("chatml"))


def test_prompt_logprobs_as_vllm_has_them() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = (await client.post(PATH, json=body(prompt_logprobs=1))).json()
        first, second, *_ = answer["prompt_logprobs"]
        assert first is None
        assert second == {str(ord("s")): {"logprob": -0.5, "rank": 1, "decoded_token": "s"}}

    with_worker(test)
