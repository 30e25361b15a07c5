"""The Responses API over scripted workers, read by OpenAI's own client where that is what counts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from daemon.gateway.responses.building import Building
from daemon.gateway.responses.chat import chat_body, renamed
from fcd.errors import ApiError
from fcd.wire.openai_chat import parse_chat
from fcd.wire.openai_responses import parse_responses
from tests.daemon.gateway.fake_fastchat import FakeFastChat, always, as_fastchat, frame
from tests.daemon.harness import (
    STREAM_END,
    STREAM_HEAD,
    Running,
    Script,
    answer,
    chunk,
    daemon,
    error_of,
    event,
    run,
    stream,
    until,
    worker,
)
from tests.image_files import bomb, data_url, png

PATH = "/v1/responses"
USAGE = {
    "prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip


def delta(finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return event({"model": "m", "choices": [choice]})


def call(index: int, *, name: str = "", id: str = "", arguments: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return {"index": index, "function": function} | ({"id": id, "type": "function"} if id else {})


USAGE_CHUNK = event({"model": "m", "choices": [], "usage": USAGE})
DONE = event("[DONE]") + STREAM_END
ERROR = chunk(b'event: error\ndata: {"error": {"message": "It broke."}}\n\n')
HELLO = stream(
    STREAM_HEAD, delta(role="assistant"), delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE_CHUNK + DONE
)
RICH = stream(
    STREAM_HEAD,
    delta(reasoning_content="Hm, "), delta(reasoning_content="yes."),
    delta(content="I look."),
    delta(tool_calls=[call(0, name="find", id="call_1")]), delta(tool_calls=[call(0, arguments='{"q":')]),
    delta(tool_calls=[call(0, arguments='"a"}')]),
    delta(tool_calls=[call(1, name="note", id="call_2", arguments="{}")]),
    delta("tool_calls"), USAGE_CHUNK + DONE,
)  # fmt: skip


def client_of(fcd: Running) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{fcd.url}/v1", api_key="none", max_retries=0)


def with_worker(script: Script, test: Any, **settings: Any) -> None:
    async def main() -> None:
        async with worker(script) as scripted, daemon(scripted.target, **settings) as fcd:
            await test(fcd, scripted)

    run(main())


def body_of(**fields: Any) -> dict[str, Any]:
    return chat_body(parse_responses(json.dumps({"model": "m", "input": "Hi", **fields}).encode()))


# The chat that it becomes


def test_a_text_with_instructions_becomes_two_messages() -> None:
    body = body_of(
        instructions="Be brief.", max_output_tokens=7, temperature=0.5, store=True, keep_alive="5m", user="u"
    )
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert (body["max_completion_tokens"], body["temperature"], body["keep_alive"], body["user"]) == (7, 0.5, "5m", "u")
    assert body["stream_options"] == {"include_usage": True}
    assert "store" not in body
    parse_chat(json.dumps(body).encode())


def test_items_become_messages_and_calls_of_one_answer_stay_together() -> None:
    items = [
        {"role": "developer", "content": "Use tools."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Find a."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "f", "call_id": "c1", "name": "find", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "note", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "found"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noted"}]},
        {"type": "function_call", "call_id": "c3", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c3", "output": "again"},
    ]  # fmt: skip
    messages = body_of(input=items)["messages"]
    assert [message["role"] for message in messages] == [
        "developer", "user", "assistant", "tool", "tool", "assistant", "tool",
    ]  # fmt: skip
    said = messages[2]
    assert said["content"] == [{"type": "text", "text": "I look."}]
    assert said["reasoning_content"] == "Hm."
    assert [each["id"] for each in said["tool_calls"]] == ["c1", "c2"]
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "found"}
    parse_chat(json.dumps({"model": "m", "messages": messages}).encode())


def test_tools_and_formats_are_wrapped_as_chats_have_them() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = body_of(
        tools=[{"type": "function", "name": "find", "parameters": schema, "strict": True}],
        tool_choice={"type": "function", "name": "find"},
        text={"format": {"type": "json_schema", "name": "s", "schema": schema, "strict": True}},
        reasoning={"effort": "low", "summary": "auto"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    assert body["tools"] == [{"type": "function", "function": {"name": "find", "parameters": schema, "strict": True}}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    assert body["response_format"]["json_schema"] == {"name": "s", "schema": schema, "strict": True}
    assert (body["reasoning_effort"], body["logprobs"], body["top_logprobs"]) == ("low", True, 2)
    parse_chat(json.dumps(body).encode())
    assert body_of(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema", "name": "s"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "text", "name": "s"}}}, "text.format.name"),
        ({"include": ["reasoning.encrypted_content"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_obfuscation": True}, "stream": True}, "stream_options.include_obfuscation"),
        ({"stream_options": {}}, "stream_options"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "name": "n"}]}, "input[0].name"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "reasoning", "summary": []}, {"role": "user", "content": "x"}]}, None),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(fields: dict[str, Any], param: str | None) -> None:
    if param is None:
        assert len(body_of(**fields)["messages"]) == 1
        return
    with pytest.raises(ApiError) as failure:
        body_of(**fields)
    assert failure.value.status == 400
    assert failure.value.param == param
    assert param in failure.value.message


def test_a_thought_must_lead_to_an_answer() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]}
    for items in ([thought, {"role": "user", "content": "x"}], [{"role": "user", "content": "x"}, thought]):
        with pytest.raises(ApiError, match="reasoning"):
            body_of(input=items)


def test_a_chats_words_become_this_routes() -> None:
    error = renamed(ApiError(400, "'max_completion_tokens' is more than is left.", param="max_completion_tokens"))
    assert (error.message, error.param) == ("'max_output_tokens' is more than is left.", "max_output_tokens")
    assert renamed(ApiError(400, "x", param="tools[1].function.parameters")).param == "tools[1].parameters"
    assert renamed(ApiError(400, "x", param="response_format.json_schema.schema")).param == "text.format.schema"
    assert renamed(ApiError(400, "x", param="messages[0].content")).param == "input"
    kept = renamed(ApiError(503, "messages wait", retry_after=3))
    assert (kept.message, kept.retry_after) == ("messages wait", 3)


# With OpenAI's client


def test_a_whole_response() -> None:
    async def test(fcd: Running, scripted: Any) -> None:
        made = await client_of(fcd).responses.create(model="m", input="Hi", instructions="Be brief.", temperature=0.5)
        assert made.output_text == "Hello"
        assert (made.object, made.status, made.model, made.error) == ("response", "completed", "m", None)
        assert made.id.startswith("resp_")
        assert made.usage is not None
        assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (9, 5, 14)
        assert made.usage.input_tokens_details.cached_tokens == 4
        assert made.usage.output_tokens_details.reasoning_tokens == 2
        assert (made.instructions, made.temperature, made.previous_response_id) == ("Be brief.", 0.5, None)
        assert made.to_dict()["store"] is False
        sent = json.loads(scripted.received[0].body)
        assert scripted.received[0].path == "/v1/chat/completions"
        assert sent["messages"][-1] == {"role": "user", "content": "Hi"}
        metrics = (await fcd.http.get("/metrics")).text
        assert 'handler="/v1/responses"' in metrics or PATH in metrics

    with_worker(HELLO, test)


def test_a_response_with_thoughts_text_and_calls_whole_and_streamed_is_the_same() -> None:
    async def test(fcd: Running, scripted: Any) -> None:
        client = client_of(fcd)
        whole = await client.responses.create(model="m", input="Hi")
        kinds = [item.type for item in whole.output]
        assert kinds == ["reasoning", "message", "function_call", "function_call"]
        calls = [item for item in whole.output if item.type == "function_call"]
        assert [(each.call_id, each.name, each.arguments) for each in calls] == [
            ("call_1", "find", '{"q":"a"}'), ("call_2", "note", "{}"),
        ]  # fmt: skip
        events: list[Any] = [each async for each in await client.responses.create(model="m", input="Hi", stream=True)]
        assert [each.sequence_number for each in events] == list(range(len(events)))
        assert [each.type for each in events[:2]] == ["response.created", "response.in_progress"]
        last = events[-1]
        assert last.type == "response.completed"

        def shape(output: Any) -> Any:
            return [{name: value for name, value in item.to_dict().items() if name != "id"} for item in output]

        assert shape(last.response.output) == shape(whole.output)
        assert last.response.usage == whole.usage
        for index, item in enumerate(last.response.output):
            added = [
                each for each in events if each.type == "response.output_item.added" and each.output_index == index
            ]
            done = [each for each in events if each.type == "response.output_item.done" and each.output_index == index]
            assert [each.item.id for each in (*added, *done)] == [item.id, item.id]
            assert done[0].item == item
        assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == "I look."
        assert "".join(each.delta for each in events if each.type == "response.reasoning_text.delta") == "Hm, yes."
        argued = [each.arguments for each in events if each.type == "response.function_call_arguments.done"]
        assert argued == ['{"q":"a"}', "{}"]

    with_worker(RICH, test)


def test_the_clients_own_helper_follows_the_stream() -> None:
    async def test(fcd: Running, scripted: Any) -> None:
        async with client_of(fcd).responses.stream(model="m", input="Hi") as events:
            async for _ in events:
                pass
            assert (await events.get_final_response()).output_text == "Hello"

    with_worker(HELLO, test)


def test_an_answer_at_the_limit_is_incomplete() -> None:
    script = stream(STREAM_HEAD, delta(content="Hel"), delta("length"), USAGE_CHUNK + DONE)

    async def test(fcd: Running, scripted: Any) -> None:
        client = client_of(fcd)
        made = await client.responses.create(model="m", input="Hi", max_output_tokens=1)
        assert made.status == "incomplete"
        assert made.incomplete_details is not None
        assert made.incomplete_details.reason == "max_output_tokens"
        assert made.output[0].status == "incomplete"  # type: ignore[union-attr]
        events = [each async for each in await client.responses.create(model="m", input="Hi", stream=True)]
        assert events[-1].type == "response.incomplete"

    with_worker(script, test)


def test_logprobs_come_where_they_are_asked_for() -> None:
    token = {"token": "Hi", "logprob": -0.1, "bytes": [72, 105], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": "Hi"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    script = stream(STREAM_HEAD, event({"model": "m", "choices": [choice]}), USAGE_CHUNK + DONE)

    async def test(fcd: Running, scripted: Any) -> None:
        made = await client_of(fcd).responses.create(model="m", input="Hi", include=["message.output_text.logprobs"])
        assert made.output[0].content[0].logprobs[0].logprob == -0.1  # type: ignore[union-attr,index]
        assert json.loads(scripted.received[0].body)["logprobs"] is True

    with_worker(script, test)


# What goes wrong


def test_refusals_have_openais_shape_and_this_routes_names() -> None:
    refusal = {"error": {"message": "'max_completion_tokens' is too much.", "type": "invalid_request_error",
                         "param": "max_completion_tokens", "code": "context_length_exceeded"}}  # fmt: skip
    script = answer(json.dumps(refusal).encode(), "400 Bad Request")

    async def test(fcd: Running, scripted: Any) -> None:
        for streams in (False, True):
            body = {"model": "m", "input": "Hi", "stream": streams}
            said = await fcd.http.post(PATH, json=body)
            assert said.status_code == 400
            error = error_of(said)
            assert (error["param"], error["code"]) == ("max_output_tokens", "context_length_exceeded")
            assert "max_output_tokens" in error["message"]
            unknown = await fcd.http.post(PATH, json={**body, "model": "mm"})
            assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
        for bad in ({"input": "x"}, {"model": "m"}, {"model": "m", "input": "x", "previous_response_id": "r"}):
            assert (await fcd.http.post(PATH, json=bad)).status_code == 400
        assert (
            await fcd.http.post(PATH, content=b"{", headers={"content-type": "application/json"})
        ).status_code == 400

    with_worker(script, test)


def test_a_worker_that_dies_in_the_middle_is_never_a_completed_response() -> None:
    async def dies(request: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + delta(content="Hel"))
        await writer.drain()
        writer.transport.abort()

    async def test(fcd: Running, scripted: Any) -> None:
        whole = await fcd.http.post(PATH, json={"model": "m", "input": "Hi"})
        assert (whole.status_code, error_of(whole)["code"]) == (502, "worker_died")
        seen: list[Any] = []
        events = await client_of(fcd).responses.create(model="m", input="Hi", stream=True)

        async def read() -> None:
            async for each in events:
                seen.append(each)

        with pytest.raises(openai.APIError, match="died"):
            await read()
        assert seen[-1].type == "response.failed"
        assert seen[-1].response.status == "failed"
        assert seen[-1].response.error is not None
        assert not any(each.type == "response.completed" for each in seen)
        assert len(fcd.controller.released) == 2

    with_worker(dies, test)


@pytest.mark.parametrize(
    "script",
    [
        stream(STREAM_HEAD, delta(content="Hel"), DONE),
        stream(STREAM_HEAD, delta(content="H"), ERROR, STREAM_END),
        stream(STREAM_HEAD, chunk(b"data: {nonsense\n\n"), DONE),
    ],
)  # fmt: skip
def test_an_end_without_a_reason_is_an_error(script: Script) -> None:
    async def test(fcd: Running, scripted: Any) -> None:
        whole = await fcd.http.post(PATH, json={"model": "m", "input": "Hi"})
        assert whole.status_code >= 500
        error_of(whole)
        streamed = await fcd.http.post(PATH, json={"model": "m", "input": "Hi", "stream": True})
        assert "response.failed" in streamed.text
        assert "event: error" in streamed.text
        assert "response.completed" not in streamed.text

    with_worker(script, test)


def test_an_event_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.gateway.outlet._LONGEST_EVENT", 2**20)

    async def test(fcd: Running, scripted: Any) -> None:
        whole = await fcd.http.post(PATH, json={"model": "m", "input": "Hi"})
        assert (whole.status_code, whole.json()["error"]["code"]) == (502, "event_too_long")
        streamed = await fcd.http.post(PATH, json={"model": "m", "input": "Hi", "stream": True})
        assert "response.failed" in streamed.text
        assert "more than 1 MiB" in streamed.text
        assert "response.completed" not in streamed.text

    long = delta(content="x" * 2**21)
    with_worker(stream(STREAM_HEAD, delta(content="Hel"), long, delta("stop"), USAGE_CHUNK + DONE), test)


def test_waiting_is_filled_with_comments_and_leaving_ends_the_work() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with worker(HELLO) as scripted, daemon(scripted.target, sse_comment_s=0.05) as fcd:
            fcd.controller.gate = gate
            body = {"model": "m", "input": "Hi", "stream": True}
            async with fcd.http.stream("POST", PATH, json=body) as response:
                lines = response.aiter_lines()
                seen = [await anext(lines)]
                while ": waiting" not in seen:
                    seen.append(await anext(lines))
                gate.set()
                seen += [line async for line in lines]
            assert "event: response.completed" in seen
            assert seen.index("event: response.created") < seen.index("event: response.output_text.delta")

    run(main())

    async def leaving() -> None:
        hold = asyncio.Event()

        async def stays(request: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + delta(content="Hel"))
            await hold.wait()

        async with worker(stays) as scripted, daemon(scripted.target) as fcd:
            body = {"model": "m", "input": "Hi"}
            for streams in (True, False):
                with pytest.raises(httpx.ReadTimeout):
                    await fcd.http.post(PATH, json={**body, "stream": streams}, timeout=0.5)
                await until(lambda: not fcd.context.active, what="nothing to run on")
            assert len(fcd.controller.released) == 2
            hold.set()

    run(leaving())


def test_fastchats_workers_answer_it_too() -> None:
    fake = FakeFastChat(always(frame("Hel"), frame("Hello", done=2), frame("Hello", "stop", done=2)))

    async def main() -> None:
        async with worker(fake) as scripted, daemon(as_fastchat(scripted.target)) as fcd:
            made = await client_of(fcd).responses.create(model="m", input="Hi")
            assert (made.output_text, made.status) == ("Hello", "completed")
            assert made.usage is not None
            assert made.usage.output_tokens == 2
            refused = await fcd.http.post(PATH, json={"model": "m", "input": "Hi", "seed": 3})
            assert (refused.status_code, error_of(refused)["param"]) == (400, "seed")

    run(main())


def test_the_object_is_built_from_events_alone() -> None:
    """Items in the events are copies: what was sent does not change afterwards."""
    building = Building(parse_responses(b'{"model": "m", "input": "Hi"}'), 1.0)
    first = building.feed({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    building.feed({"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]})
    building.end(2.0)
    added = next(each for each in first if each["type"] == "response.output_item.added")
    assert added["item"]["content"] == []
    assert building.response.output[0]["content"][0]["text"] == "ab"


def test_images_become_parts_of_the_chat() -> None:
    content = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": data_url(png()), "detail": "high"},
    ]
    body = body_of(input=[{"role": "user", "content": content}])
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "high"}},
    ]
    parse_chat(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "input_image", "image_url": "https://example.com/a.png"}, "input[0].content[0].image_url"),
        ({"type": "input_image", "file_id": "file-1"}, "input[0].content[0].file_id"),
        ({"type": "input_image", "image_url": data_url(bomb())}, "input[0].content[0].image_url"),
        ({"type": "input_text", "text": "x", "detail": "low"}, "input[0].content[0].detail"),
        ({"type": "input_file", "file_url": "https://x"}, "input[0].content[0].type"),
    ],
)
def test_images_are_data_and_nothing_is_fetched(item: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as failure:
        body_of(input=[{"role": "user", "content": [item]}])
    assert (failure.value.status, failure.value.param) == (400, param)
    with pytest.raises(ApiError) as failure:
        body_of(input=[{"role": "assistant", "content": [{"type": "input_image", "image_url": data_url(png())}]}])
    assert failure.value.param == "input[0].content[0].type"
