"""FastChat's worker wire: frames, echo, errors in status 200, and everything that its clients leave null."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from daemon.worker.prompts import Prompter
from fcd.errors import ApiError
from fcd.templates import get_template
from tests.daemon.worker.fake import CONTEXT, FakeEngine, Served, until, with_worker

STREAM = "/worker_generate_stream"


def frames_of(content: bytes) -> list[dict[str, Any]]:
    assert content.endswith(b"\0")
    return [json.loads(frame) for frame in content.split(b"\0") if frame]


def test_frames_are_cumulative_and_the_last_is_doubled() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(STREAM, json={"model": "any", "prompt": "ab", "echo": False})
        frames = frames_of(answer.content)
        assert [frame["text"] for frame in frames] == ["H", "He", "Hel", "Hell", "Hello", "Hello"]
        assert [frame["finish_reason"] for frame in frames] == [None] * 5 + ["stop"]
        assert all(frame["error_code"] == 0 for frame in frames)
        assert frames[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}

    with_worker(test)


def test_echo_is_on_unless_it_is_switched_off() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            whole = (await client.post("/worker_generate", json={"prompt": "ab"})).json()
        assert (whole["text"], whole["finish_reason"]) == ("abHello", "stop")

    with_worker(test)


def test_null_numbers_are_the_defaults() -> None:
    names = [
        "temperature",
        "top_p",
        "top_k",
        "repetition_penalty",
        "max_new_tokens",
        "echo",
        "stop",
        "stop_token_ids",
        "logprobs",
        "presence_penalty",
        "frequency_penalty",
        "best_of",
        "use_beam_search",
        "images",
        "seed",
    ]

    async def test(served: Served) -> None:
        async with served.client() as client:
            whole = (await client.post("/worker_generate", json={"prompt": "ab", **dict.fromkeys(names)})).json()
        assert whole["text"] == "abHello"
        params = served.engine.requests[0].params
        assert (params.temperature, params.top_p, params.top_k) == (1.0, 1.0, 0)

    with_worker(test)


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1e-6}, {"top_p": 0}])
def test_nearly_no_temperature_is_greedy(fields: dict[str, Any]) -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            await client.post("/worker_generate", json={"prompt": "ab", **fields})
        assert served.engine.requests[0].params.temperature == 0

    with_worker(test)


def test_a_long_prompt_is_cut_from_the_left() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            await client.post("/worker_generate", json={"prompt": "x" * 200 + "end", "max_new_tokens": 10})
        request = served.engine.requests[0]
        assert len(request.prompt_ids) == CONTEXT - 10 - 1
        assert served.engine.tokenizer.decode(request.prompt_ids).endswith("end")

    with_worker(test)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"prompt": 5}, 40001),
        ({}, 40001),
        ({"prompt": "x", "temperature": "hot"}, 40001),
        ({"prompt": "x", "max_new_tokens": 0}, 40302),
        ({"prompt": "x", "stop": 5}, 50001),
    ],
)
def test_errors_are_one_frame_with_a_code_and_status_200(body: dict[str, Any], code: int) -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            streamed = await client.post(STREAM, json=body)
            whole = await client.post("/worker_generate", json=body)
        for answer, found in ((streamed, frames_of(streamed.content)[0]), (whole, whole.json())):
            assert answer.status_code == 200
            assert found["error_code"] == code
            assert found["text"].startswith("**NETWORK ERROR DUE TO HIGH TRAFFIC.")

    with_worker(test)


def test_an_engine_that_fails_in_mid_stream_ends_with_an_error_frame() -> None:
    def engine() -> FakeEngine:
        made = FakeEngine(fail=ApiError(500, "out of memory", code="out_of_memory"))
        made.fail_after = 2
        return made

    async def test(served: Served) -> None:
        async with served.client() as client:
            frames = frames_of((await client.post(STREAM, json={"prompt": "ab", "echo": False})).content)
        assert [frame["error_code"] for frame in frames] == [0, 0, 50002]

    with_worker(test, engine)


def test_logprobs_are_cumulative() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            asked = {"prompt": "ab", "echo": False, "logprobs": 1}
            frames = frames_of((await client.post(STREAM, json=asked)).content)
            echoed = (await client.post("/worker_generate", json={"prompt": "ab", "logprobs": 1})).json()
        assert frames[1]["logprobs"]["tokens"] == ["H", "e"]
        assert echoed["logprobs"]["tokens"] == ["^", "a", "b", *"Hello"]
        assert echoed["logprobs"]["token_logprobs"][0] is None
        assert echoed["logprobs"]["text_offset"] == [0, *range(7)]

    with_worker(test)


def test_the_loop_does_not_decode_the_prompt_that_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[tuple[int, bool]]()
    decode = Prompter.decode

    def noted(self: Prompter, ids: Sequence[int]) -> str:
        decoded.append((len(ids), threading.current_thread() is threading.main_thread()))
        return decode(self, ids)

    async def test(served: Served) -> None:
        assert threading.current_thread() is threading.main_thread(), "the worker's loop runs here"
        async with served.client() as client:
            for asked in ({}, {"logprobs": 1, "echo": False}, {"logprobs": 1}):
                answer = (await client.post("/worker_generate", json={"prompt": "abc" * 9, **asked})).json()
        assert answer["logprobs"]["tokens"][:4] == ["^", "a", "b", "c"]
        assert answer["logprobs"]["text_offset"][:4] == [0, 0, 1, 2]

    monkeypatch.setattr(Prompter, "decode", noted)
    with_worker(test)
    assert decoded == [(28, False)]


def test_a_client_that_leaves_ends_its_generation() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client, client.stream("POST", STREAM, json={"prompt": "ab"}) as answer:
            await anext(answer.aiter_raw())
        await until(lambda: served.engine.running == 0)
        assert served.engine.cancelled == 1

    with_worker(test, lambda: FakeEngine(hold=2))


def test_empty_frames_fill_a_silence() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client, client.stream("POST", STREAM, json={"prompt": "ab"}) as answer:
            content = b""
            async for piece in answer.aiter_raw():
                content += piece
                if content.count(b"\0") >= 2:
                    served.engine.go.set()
        assert content.startswith(b"\0\0")
        assert frames_of(content)[-1]["text"] == "abHello"

    with_worker(test, lambda: FakeEngine(hold=0), comment_s=0.02)


def test_status_counts_and_details() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            status = (await client.post("/worker_get_status")).json()
            count = (await client.post("/count_token", json={"model": "any", "prompt": "abc"})).json()
            details = (await client.post("/model_details", json={"model": "any"})).json()
            vectors = (await client.post("/worker_get_embeddings", json={"model": "x", "input": ["a", "b"]})).json()
            wrong = await client.post("/worker_get_embeddings", json={"input": 3})
        assert status == {"model_names": ["fake"], "speed": 1, "queue_length": 0}
        assert count == {"count": 4, "error_code": 0}
        assert details == {"context_length": CONTEXT}
        assert vectors == {"embedding": [[0.6, 0.8, 0.0]] * 2, "token_num": 4}
        assert (wrong.status_code, wrong.json()["error_code"]) == (200, 40001)

    with_worker(test)


def test_the_conversation_template_is_worked_out_from_the_tokenizers() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            conv = (await client.post("/worker_get_conv_template", json={"model": "any"})).json()["conv"]
        assert conv["sep_style"] == 5
        assert conv["roles"] == ["user:", "|assistant:"]
        assert (conv["sep"], conv["sep2"]) == ("", "|")

    with_worker(test)


def test_a_named_conversation_template_is_given_as_it_is() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            conv = (await client.post("/worker_get_conv_template", json={})).json()["conv"]
        assert (conv["name"], conv["sep_style"]) == ("vicuna_v1.1", 2)

    with_worker(test, template=get_template("vicuna_v1.1"))
