"""Completions, embeddings, tokenising, models, probes and who may call, with a scripted engine."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.engines.base import Delta, GenerationRequest, TokenLogprob
from fcd.wire.admin import Progress
from tests.daemon.worker.fake import CONTEXT, FakeEngine, Served, events_of, with_worker

PATH = "/v1/completions"


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "fake", "prompt": "ab", **fields}


def test_completion_of_several_prompts_and_choices() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = (await client.post(PATH, json=body(prompt=["a", "bc", "d"], n=2, echo=True))).json()
        assert answer["object"] == "text_completion"
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        assert [choice["text"] for choice in answer["choices"]] == ["aHello"] * 2 + ["bcHello"] * 2 + ["dHello"] * 2
        assert answer["usage"]["prompt_tokens"] == 2 + 3 + 2
        assert answer["usage"]["completion_tokens"] == 6 * 5

    with_worker(test)


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("prompt", ["abc", [1, 97, 98, 99]])
def test_the_harness_contract(max_tokens: int, prompt: Any) -> None:
    """Log-probabilities cover the prompt, null first, and then the generated tokens."""

    async def test(served: Served) -> None:
        asked = body(prompt=prompt, max_tokens=max_tokens, logprobs=1, echo=True, temperature=0, seed=1234)
        async with served.client() as client:
            answer = await client.post(PATH, json=asked)
            streamed = await client.post(PATH, json={**asked, "stream": True})
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        logprobs = choice["logprobs"]
        assert logprobs["tokens"] == ["^", "a", "b", "c", *"H"[:max_tokens]]
        assert logprobs["token_logprobs"] == [None, -1.0, -1.0, -1.0, *[-0.5][:max_tokens]]
        assert logprobs["top_logprobs"][0] is None
        assert logprobs["top_logprobs"][1:4] == [{"a": -0.5}, {"b": -0.5}, {"c": -0.5}]
        # Offsets are into `text`: the BOS is not in the echo of a string, and takes no room there.
        shift = isinstance(prompt, str)
        assert logprobs["text_offset"] == [max(0, at - shift) for at in range(4 + max_tokens)]
        assert choice["finish_reason"] == "length"
        assert choice["text"] == ("abc" if isinstance(prompt, str) else "^abc") + "H"[:max_tokens]
        chunks = [json.loads(data)["choices"][0] for _, data in events_of(streamed.text) if data != "[DONE]"]
        assert "".join(chunk["text"] for chunk in chunks) == choice["text"]
        tokens = [token for chunk in chunks if chunk["logprobs"] for token in chunk["logprobs"]["tokens"]]
        offsets = [offset for chunk in chunks if chunk["logprobs"] for offset in chunk["logprobs"]["text_offset"]]
        assert (tokens, offsets) == (logprobs["tokens"], logprobs["text_offset"])

    with_worker(test)


class Scripted(FakeEngine):
    """Yields these deltas."""

    def __init__(self, *deltas: Delta) -> None:
        super().__init__()
        self.deltas = deltas

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Delta]:
        for delta in self.deltas:
            yield delta


def token(text: str, begin: int) -> tuple[TokenLogprob, ...]:
    return (TokenLogprob(7, text, -0.5, (), begin),)


@pytest.mark.parametrize(
    ("deltas", "text", "offsets"),
    [
        # Special tokens that are not shown.
        ((Delta(0, "", (7,), token("<|a|>", 0)), Delta(0, "", (7,), token("<|b|>", 0), "length")), "", [0, 0]),
        # A character of two tokens.
        (
            (
                Delta(0, "", (7,), token("\ufffd", 0)),
                Delta(0, "é", (7,), token("\ufffd", 0)),
                Delta(0, "!", (7,), token("!", 1), "length"),
            ),
            "é!",
            [0, 0, 1],
        ),
        # What is cut off by a stop string.
        (
            (
                Delta(0, "a", (7,), token("a", 0)),
                Delta(0, "", (7,), token("x", 1)),
                Delta(0, "", (7,), token("y", 2)),
                Delta(0, "", (7,), token("z", 3), "stop"),
            ),
            "a",
            [0, 1, 1, 1],
        ),
    ],
)
def test_offsets_are_into_the_text(deltas: tuple[Delta, ...], text: str, offsets: list[int]) -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            choice = (await client.post(PATH, json=body(logprobs=0, max_tokens=4))).json()["choices"][0]
            streamed = await client.post(PATH, json=body(logprobs=0, max_tokens=4, stream=True))
        assert (choice["text"], choice["logprobs"]["text_offset"]) == (text, offsets)
        chunks = [json.loads(data)["choices"][0] for _, data in events_of(streamed.text) if data != "[DONE]"]
        assert [at for c in chunks if c["logprobs"] for at in c["logprobs"]["text_offset"]] == offsets

    with_worker(test, Scripted(*deltas))


def test_a_bos_in_the_text_is_not_doubled() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            await client.post(PATH, json=body(prompt="^ab"))
            await client.post(PATH, json=body(prompt="ab"))
            await client.post(PATH, json=body(prompt="ab", add_special_tokens=False))
        decoded = [served.engine.tokenizer.decode(request.prompt_ids) for request in served.engine.requests]
        assert decoded == ["^ab", "^ab", "ab"]

    with_worker(test)


def test_truncation_keeps_the_end() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            await client.post(PATH, json=body(prompt="abcdef", truncate_prompt_tokens=2))
            long = await client.post(PATH, json=body(prompt="x" * 500, truncate_prompt_tokens=-1, max_tokens=4))
        assert long.status_code == 200
        assert served.engine.tokenizer.decode(served.engine.requests[0].prompt_ids) == "ef"
        assert len(served.engine.requests[1].prompt_ids) == CONTEXT - 4

    with_worker(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "x" * 100}, "prompt"),
        ({"prompt": ["x", "x" * 100]}, "prompt[1]"),
        ({"prompt": "", "add_special_tokens": False}, "prompt"),
        ({"prompt": [[1], [2000000]]}, "prompt[1]"),
        ({"max_tokens": 100}, "prompt"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str) -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(**fields))
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param
        assert served.engine.requests == []

    with_worker(test)


def test_a_body_that_is_packed_is_refused_by_that_name() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415
        assert "Content-Encoding: gzip" in answer.json()["error"]["message"]

    with_worker(test)


def test_embeddings() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            asked = {"model": "fake", "input": ["a", "bc"]}
            plain = (await client.post("/v1/embeddings", json=asked)).json()
            packed = (await client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"})).json()
            short = (await client.post("/v1/embeddings", json={**asked, "dimensions": 2})).json()
            wide = await client.post("/v1/embeddings", json={**asked, "dimensions": 4})
            long = await client.post("/v1/embeddings", json={"model": "fake", "input": ["a", "x" * 100]})
        assert [entry["embedding"] for entry in plain["data"]] == [[0.6, 0.8, 0.0]] * 2
        assert plain["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
        raw = base64.b64decode(packed["data"][0]["embedding"])
        assert struct.unpack("<3f", raw) == pytest.approx((0.6, 0.8, 0.0))
        assert short["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
        assert wide.json()["error"]["param"] == "dimensions"
        assert long.json()["error"]["param"] == "input[1]"

    with_worker(test)


def test_tokenize_there_and_back() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            plain = (
                await client.post("/tokenize", json={"model": "fake", "prompt": "ab", "return_token_strs": True})
            ).json()
            bare = (await client.post("/tokenize", json={"prompt": "ab", "add_special_tokens": False})).json()
            messages = [{"role": "user", "content": "x"}]
            chat = (await client.post("/tokenize", json={"messages": messages, "add_generation_prompt": False})).json()
            back = (await client.post("/detokenize", json={"tokens": plain["tokens"]})).json()
            info = (await client.get("/tokenizer_info")).json()
            bad = await client.post("/detokenize", json={"tokens": [2**30]})
        assert plain == {"count": 3, "max_model_len": CONTEXT, "tokens": [1, 97, 98], "token_strs": ["^", "a", "b"]}
        assert bare["tokens"] == [97, 98]
        assert chat["count"] == len("user:x|")
        assert back == {"prompt": "^ab"}
        assert info["eos_token"] == "$"
        assert bad.json()["error"]["param"] == "tokens[0]"

    with_worker(test)


def test_models_and_probes() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            models = (await client.get("/v1/models")).json()
            one = await client.get("/v1/models/fake")
            none = await client.get("/v1/models/other")
            health = await client.get("/health")
            await client.post(PATH, json=body())
            metrics = (await client.get("/metrics")).text
            unknown = await client.get("/nothing")
            wrong = await client.get(PATH)
        assert [(card["id"], card["max_model_len"]) for card in models["data"]] == [("fake", CONTEXT)]
        assert one.json()["object"] == "model"
        assert none.status_code == 404
        assert health.json()["status"] == "ok"
        assert 'vllm:request_success_total{model_name="fake",finished_reason="stop"} 1' in metrics
        assert "vllm:time_to_first_token_seconds_count 1" in metrics
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")

    with_worker(test)


def test_while_loading_it_says_so() -> None:
    async def test(served: Served) -> None:
        served.worker.progress = Progress("weights", 3, 12)
        async with served.client() as client:
            health = await client.get("/health")
            for path in (PATH, "/v1/chat/completions", "/tokenize", "/worker_get_status", "/count_token"):
                answer = await client.post(path, json=body())
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "2"), path
                assert "weights" in answer.json()["error"]["message"]
            models = await client.get("/v1/models")
        assert (health.status_code, health.json()["status"]) == (200, "loading")
        assert health.json()["progress"] == {"stage": "weights", "done": 3, "total": 12}
        assert models.status_code == 503

    with_worker(test, ready=False)


def test_the_unix_socket_serves_the_same_and_takes_aliases(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"

    async def test(served: Served) -> None:
        assert path.stat().st_mode & 0o777 == 0o600
        async with served.unix_client() as client:
            answer = await client.post(PATH, json=body(model="an-alias"))
        assert answer.json()["model"] == "an-alias"

    with_worker(test, socket=path)
    assert not path.exists()


def test_web_pages_and_foreign_hosts_are_refused() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
                answer = await client.get("/v1/models", headers=headers)
                assert answer.status_code == 403
                assert "access-control-allow-origin" not in answer.headers

    with_worker(test)


def test_a_worker_with_a_key_wants_it_everywhere_but_for_probes() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            assert (await client.post(PATH, json=body())).status_code == 401
            assert (await client.post(PATH, json=body(), headers={"Authorization": "Bearer no"})).status_code == 401
            assert (await client.post(PATH, json=body(), headers={"Authorization": "Bearer yes"})).status_code == 200
            assert (await client.get("/health")).status_code == 200

    with_worker(test, api_key="yes")


def test_a_body_over_the_limit_is_413() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, content=b"x" * (33 * 1024 * 1024))
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"

    with_worker(test)


def test_a_large_request_goes_through_a_thread() -> None:
    async def test(served: Served) -> None:
        async with served.client() as client:
            answer = await client.post(PATH, json=body(prompt="x" * 200_000, truncate_prompt_tokens=3))
        assert answer.status_code == 200
        assert len(served.engine.requests[0].prompt_ids) == 3

    with_worker(test, FakeEngine)
