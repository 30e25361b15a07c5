"""OpenAI's requests answered by workers that speak FastChat's wire."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.gateway.fastchat.conversation import read_conversation
from daemon.gateway.fastchat.text import CumulativeText
from fcd.templates import Turn
from tests.daemon.gateway.fake_fastchat import FakeFastChat, always, as_fastchat, error_frame, frame
from tests.daemon.harness import CHAT, Running, asks, daemon, error_of, lines_of, run, until, worker

COMPLETIONS = "/v1/completions"
HELLO = always(frame("Hel"), frame("Hello", done=2), frame("Hello", "stop", done=2))


def with_fake(fake: FakeFastChat, test: Any, **settings: Any) -> None:
    async def main() -> None:
        async with worker(fake) as scripted, daemon(as_fastchat(scripted.target), **settings) as fcd:
            await test(fcd)

    run(main())


async def chunks_of(response: httpx.Response) -> list[Any]:
    lines = await lines_of(response)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1] if line.startswith("data: ")]


def texts(chunks: list[Any], index: int = 0) -> str:
    return "".join(
        choice["delta"].get("content", "") if "delta" in choice else choice["text"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


def test_prompts_are_what_fastchat_renders() -> None:
    """Golden prompts, written by FastChat's own templates, one or more per style."""
    golden = json.loads((Path(__file__).parent / "fastchat_prompts.json").read_text(encoding="utf-8"))
    assert len({each["style"] for each in golden}) == 23
    for each in golden:
        conversation = read_conversation(each["conv"])
        assert conversation.style == each["style"]
        for case in each["prompts"]:
            turns = [Turn(role, text) for role, text in case["turns"]]
            assert conversation.prompt(turns) == case["prompt"], each["conv"]["name"]


@pytest.mark.parametrize(
    ("name", "number", "new", "style"),
    [
        ("qwen-7b-chat", 9, False, "CHATML"),
        ("qwen-7b-chat", 10, True, "CHATML"),
        ("of one's own", 9, False, "CHATML"),
        ("of one's own", 10, True, "CHATML"),
        ("of one's own", 9, True, "CHATGLM"),
        ("of one's own", 2, False, "ADD_COLON_TWO"),
    ],
)
def test_both_numberings_of_styles_are_read(name: str, number: int, new: bool, style: str) -> None:
    conv = {"name": name, "sep_style": number, "roles": ["a", "b"], "sep": "", "sep2": ""}
    if new:
        conv["max_image_size_mb"] = None
    assert read_conversation(conv).style == style


def test_a_chat_is_rendered_and_answered() -> None:
    fake = FakeFastChat(HELLO)

    async def test(fcd: Running) -> None:
        for _ in range(2):
            got = await fcd.http.post(CHAT, json=asks(temperature=0, max_tokens=5))
            assert got.status_code == 200, got.text
        answer = got.json()
        assert answer["choices"] == [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ]
        assert answer["usage"]["prompt_tokens"] == 7
        assert answer["usage"]["total_tokens"] == 9
        assert (answer["object"], answer["model"]) == ("chat.completion", "m")
        sent = fake.generations()[0]
        assert sent["prompt"] == "Be short. USER: Hi ASSISTANT:"
        assert (sent["model"], sent["echo"], sent["max_new_tokens"], sent["temperature"]) == ("m", False, 5, 0)
        assert all(type(sent[name]) in (int, float) for name in ("top_p", "top_k", "repetition_penalty"))
        # The template and the context length are asked once per registration.
        assert fake.paths().count("/worker_get_conv_template") == fake.paths().count("/model_details") == 1
        assert fcd.controller.released == [("w1", False, "")] * 2

    with_fake(fake, test)


def test_cumulative_frames_become_deltas() -> None:
    """Also when the text shrinks, holds half a character, or is cut anywhere between frames."""
    frames = b"".join(
        [
            frame("Gr"),
            frame("Gr\ufffd"),
            b"\0",
            frame("Grü"),
            frame("Grüß"),
            frame("Grü"),
            frame("Grüße", "length", done=4),
        ]
    )
    fake = FakeFastChat(always(*(frames[at : at + 37] for at in range(0, len(frames), 37))))

    async def test(fcd: Running) -> None:
        body = asks(stream=True, max_tokens=5, stream_options={"include_usage": True})
        chunks = await chunks_of(await fcd.http.post(CHAT, json=body))
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert texts(chunks) == "Grüße"
        assert "\ufffd" not in json.dumps(chunks, ensure_ascii=False)
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        # FastChat counts one too few when an answer was ended by its length.
        assert chunks[-1]["usage"]["completion_tokens"] == 5
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}

    with_fake(fake, test)


def test_stops_are_cut_at_their_first_occurrence_and_those_of_the_template_too() -> None:
    fake = FakeFastChat(always(frame("one E"), frame("one END two END", "stop")))
    fake.conv["stop_str"] = ["###"]

    async def test(fcd: Running) -> None:
        answer = (await fcd.http.post(CHAT, json=asks(stop=["END"]))).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"], answer["stop_reason"]) == ("one ", "stop", "END")
        assert fake.generations()[0]["stop"] == ["END", "###"]
        chunks = await chunks_of(await fcd.http.post(CHAT, json=asks(stream=True, stop="END")))
        assert texts(chunks) == "one "

    with_fake(fake, test)


def test_choices_and_prompts_are_run_side_by_side() -> None:
    def frames(body: dict[str, Any]) -> list[Any]:
        return [frame(body["prompt"][-1].upper(), "stop", prompt=3)]

    fake = FakeFastChat(frames)

    async def test(fcd: Running) -> None:
        body = {"model": "m", "prompt": ["xa", "xb"], "n": 3, "max_tokens": 4, "echo": True}
        answer = (await fcd.http.post(COMPLETIONS, json=body)).json()
        assert [choice["text"] for choice in answer["choices"]] == ["xaA"] * 3 + ["xbB"] * 3
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        assert answer["usage"]["prompt_tokens"] == 6
        assert answer["usage"]["completion_tokens"] == 6
        chunks = await chunks_of(await fcd.http.post(COMPLETIONS, json={**body, "stream": True}))
        assert [texts(chunks, index) for index in range(6)] == ["xaA"] * 3 + ["xbB"] * 3

    with_fake(fake, test)


def test_log_probabilities_are_those_of_the_chosen_tokens() -> None:
    def logprobs(*tokens: str) -> dict[str, Any]:
        return {"tokens": list(tokens), "token_logprobs": [-0.5] * len(tokens), "top_logprobs": [{}] * len(tokens)}

    fake = FakeFastChat(
        always(frame("He", logprobs=logprobs("He")), frame("Hello", "stop", logprobs=logprobs("He", "llo")))
    )

    async def test(fcd: Running) -> None:
        answer = (await fcd.http.post(COMPLETIONS, json={"model": "m", "prompt": "x", "logprobs": 0})).json()
        found = answer["choices"][0]["logprobs"]
        assert (found["tokens"], found["text_offset"]) == (["He", "llo"], [0, 2])
        assert found["token_logprobs"] == [-0.5, -0.5]
        answer = (await fcd.http.post(CHAT, json=asks(logprobs=True, temperature=0, top_logprobs=1))).json()
        content = answer["choices"][0]["logprobs"]["content"]
        assert [(token["token"], token["bytes"]) for token in content] == [("He", [72, 101]), ("llo", [108, 108, 111])]
        assert content[0]["top_logprobs"][0]["token"] == "He"
        refused = await fcd.http.post(CHAT, json=asks(logprobs=True, top_logprobs=3))
        assert (refused.status_code, error_of(refused)["param"]) == (400, "top_logprobs")
        fake.frames = HELLO
        refused = await fcd.http.post(CHAT, json=asks(logprobs=True))
        assert (refused.status_code, error_of(refused)["param"]) == (400, "logprobs")

    with_fake(fake, test)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"seed": 1}, "seed"),
        (CHAT, {"logit_bias": {"1": 5}}, "logit_bias"),
        (CHAT, {"presence_penalty": 0.5}, "presence_penalty"),
        (CHAT, {"min_p": 0.1}, "min_p"),
        (CHAT, {"min_tokens": 3}, "min_tokens"),
        (CHAT, {"repetition_penalty": 0.5}, "repetition_penalty"),
        (CHAT, {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        (CHAT, {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].role"),
        (CHAT, {"nonsense": 1}, "nonsense"),
        (CHAT, {"max_tokens": 93}, "messages"),
        (COMPLETIONS, {"prompt": [1, 2]}, "prompt"),
        (COMPLETIONS, {"prompt": "x", "best_of": 3}, "best_of"),
        (COMPLETIONS, {"prompt": "x", "logprobs": 2}, "logprobs"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ("/v1/embeddings", {"input": [1]}, "input"),
        ("/v1/embeddings", {"input": "x", "dimensions": 2}, "dimensions"),
    ],
)
def test_what_a_fastchat_worker_cannot_do_is_refused_by_name(path: str, fields: dict[str, Any], param: str) -> None:
    async def test(fcd: Running) -> None:
        body = (asks() if path == CHAT else {"model": "m"}) | fields
        refused = await fcd.http.post(path, json=body)
        assert (refused.status_code, error_of(refused)["param"]) == (400, param), refused.text
        assert not fake.generations()

    fake = FakeFastChat(HELLO)
    with_fake(fake, test)


def test_what_asks_for_nothing_is_taken() -> None:
    async def test(fcd: Running) -> None:
        body = asks(user="u", presence_penalty=0, frequency_penalty=0.0, min_p=0, logit_bias={}, n=1, top_k=0)
        assert (await fcd.http.post(CHAT, json=body)).status_code == 200
        # What remains of the context: the worker keeps one token for itself.
        assert fake.generations()[0]["max_new_tokens"] == 100 - 7 - 1
        assert fake.generations()[0]["top_k"] == -1

    fake = FakeFastChat(HELLO)
    with_fake(fake, test)


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        (40303, 400, "context_length_exceeded"),
        (40001, 400, "invalid_request"),
        (42903, 429, "overloaded"),
        (50001, 502, "internal_error"),
        (50002, 503, "out_of_memory"),
        (3, 502, "internal_error"),
    ],
)
def test_an_error_frame_is_an_error(code: int, status: int, word: str) -> None:
    fake = FakeFastChat(always(error_frame(code, "the reason")))

    async def test(fcd: Running) -> None:
        for stream in (False, True):
            refused = await fcd.http.post(CHAT, json=asks(stream=stream))
            error = error_of(refused)
            assert (refused.status_code, error["code"]) == (status, word)
            assert "the reason" in error["message"]
            assert "TRAFFIC" not in error["message"]

    with_fake(fake, test)


@pytest.mark.parametrize("end", [None, error_frame(50001, "boom")])
def test_a_stream_that_breaks_off_ends_with_an_error_event(end: bytes | None) -> None:
    fake = FakeFastChat(always(frame("Hel"), end))

    async def test(fcd: Running) -> None:
        lines = await lines_of(await fcd.http.post(CHAT, json=asks(stream=True)))
        assert "data: [DONE]" not in lines
        assert lines[-2] == "event: error"
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] in ("worker_died", "internal_error")
        whole = await fcd.http.post(CHAT, json=asks())
        assert whole.status_code == 502

    with_fake(fake, test)


def test_a_worker_that_dies_before_its_first_frame_is_replaced() -> None:
    async def main() -> None:
        dead, alive = FakeFastChat(always(None)), FakeFastChat(HELLO)
        async with (
            worker(dead) as first,
            worker(alive, name="w2") as second,
            daemon(as_fastchat(first.target), as_fastchat(second.target)) as fcd,
        ):
            for stream in (False, True):
                got = await fcd.http.post(CHAT, json=asks(stream=stream))
                assert got.status_code == 200
                assert "Hel" in got.text
            assert [(name, failed) for name, failed, _ in fcd.controller.released] == [("w1", True), ("w2", False)] * 2

    run(main())


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_the_worker(stream: bool) -> None:
    async def main() -> None:
        fake = FakeFastChat(always(frame("Hel"), asyncio.Event().wait()))
        async with worker(fake) as scripted, daemon(as_fastchat(scripted.target)) as fcd:
            asked = asyncio.create_task(fcd.http.post(CHAT, json=asks(stream=stream)))
            await until(lambda: fake.generations())
            asked.cancel()
            await asyncio.wait_for(scripted.left.wait(), 5)
            await until(lambda: fcd.controller.released)

    run(main())


def test_a_silent_worker_is_given_up() -> None:
    fake = FakeFastChat(always(frame("Hel"), asyncio.Event().wait()))

    async def test(fcd: Running) -> None:
        refused = await fcd.http.post(CHAT, json=asks())
        assert (refused.status_code, error_of(refused)["code"]) == (504, "worker_timeout")
        assert [failed for _, failed, _ in fcd.controller.released] == [True]

    with_fake(fake, test, stall_s=0.2)


def test_embeddings_go_in_fastchats_own_batches() -> None:
    fake = FakeFastChat(HELLO)
    fake.embeddings = lambda body: {"embedding": [[float(text), 0.5] for text in body["input"]], "token_num": 2}

    async def test(fcd: Running) -> None:
        body = {"model": "m", "input": [str(number) for number in range(6)]}
        answer = (await fcd.http.post("/v1/embeddings", json=body)).json()
        assert [each["embedding"] for each in answer["data"]] == [[float(number), 0.5] for number in range(6)]
        assert answer["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
        assert [len(sent["input"]) for path, sent in fake.asked if path == "/worker_get_embeddings"] == [4, 2]
        encoded = (await fcd.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()
        assert struct.unpack("<2f", base64.b64decode(encoded["data"][3]["embedding"])) == (3.0, 0.5)

    with_fake(fake, test)


def test_routes_that_a_fastchat_worker_has_not_say_so() -> None:
    async def test(fcd: Running) -> None:
        refused = await fcd.http.post("/v1/embeddings", json={"model": "m", "input": "x"})
        assert (refused.status_code, error_of(refused)["param"]) == (400, "model")
        refused = await fcd.http.post("/tokenize", json={"model": "m", "prompt": "x"})
        assert (refused.status_code, error_of(refused)["code"]) == (501, "unsupported")

    with_fake(FakeFastChat(HELLO), test)


def test_names_are_those_of_the_worker() -> None:
    """Both dialects: a name here may stand for another one there."""

    async def main() -> None:
        fake = FakeFastChat(HELLO)
        async with worker(fake) as scripted:
            target = msgspec.structs.replace(as_fastchat(scripted.target), names={"m": "org/its-own"})
            async with daemon(target) as fcd:
                assert (await fcd.http.post(CHAT, json=asks())).json()["model"] == "m"
                assert {body["model"] for _, body in fake.asked} == {"org/its-own"}

    run(main())


def _play(frames: list[str], stops: tuple[str, ...]) -> tuple[str, CumulativeText]:
    text = CumulativeText(stops)
    given = "".join(text.feed(each) for each in frames)
    return given + text.feed(frames[-1], final=True), text


@given(st.text("abE\ufffd", max_size=30), st.lists(st.text("abE", min_size=1, max_size=3), max_size=3))
def test_growing_text_is_given_once_and_cut_at_its_first_stop(whole: str, stops: list[str]) -> None:
    frames = [whole[:end] for end in range(len(whole) + 1)]
    given, _ = _play(frames, tuple(stops))
    found = [(at + len(stop), at) for stop in stops if (at := whole.find(stop)) >= 0]
    assert given == (whole[: min(found)[1]] if found else whole)


def test_a_client_that_takes_nothing_frees_the_worker() -> None:
    fake = FakeFastChat(always(*(frame("x" * 640_000 * number) for number in range(1, 17))))

    async def test(fcd: Running) -> None:
        async with fcd.http.stream("POST", CHAT, json=asks(stream=True)) as got:
            raw = got.aiter_raw(1 << 10)
            await anext(raw)
            await until(lambda: fcd.controller.released, what="the worker to be free again")
        ((_, failed, reason),) = fcd.controller.released
        assert not failed
        assert "client took nothing" in reason
        await until(lambda: not fcd.context.active)

    with_fake(fake, test, stall_s=0.4)
