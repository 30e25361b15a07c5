"""Requests for servers that pass over what they do not know."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daemon.dispatch import Target
from daemon.gateway.fields import body_for
from fcd.errors import ApiError

CHAT = "/v1/chat/completions"
STRICT = Target("w", serves=("mine", "mine-lora"), fields={CHAT: ["messages", "top_k", "stream_options"]})


def sent(target: Target = STRICT, model: str = "mine", **fields: Any) -> dict[str, object]:
    body = json.dumps({"model": model, **fields}).encode()
    return dict(json.loads(body_for(target, CHAT, model, body)))


def test_what_the_worker_knows_goes_through_untouched() -> None:
    body = b'{"model":"mine", "top_k":  3,"messages":[]}'
    assert body_for(STRICT, CHAT, "mine", body) is body
    assert (
        body_for(Target("w"), CHAT, "mine", b'{"model": "mine", "anything": 1}') == b'{"model": "mine", "anything": 1}'
    )
    assert sent(store=True, metadata={}, keep_alive="5m", nothing=None)["store"] is True


@pytest.mark.parametrize(
    ("fields", "param", "near"),
    [
        ({"topk": 3}, "topk", "top_k"),
        ({"web_search_options": {}}, "web_search_options", ""),
        ({"stream_options": {"include_usages": True}}, "stream_options.include_usages", "stream_options.include_usage"),
    ],
)
def test_what_the_worker_would_pass_over_is_refused(fields: dict[str, Any], param: str, near: str) -> None:
    with pytest.raises(ApiError) as caught:
        sent(**fields)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, "unknown_parameter")
    assert (f"'{near}'" in caught.value.message) == bool(near)


def test_a_name_that_the_worker_does_not_know_becomes_its_own() -> None:
    assert sent(model="my-alias")["model"] == "mine"
    assert sent(model="mine-lora")["model"] == "mine-lora"
    assert sent(Target("w", names={"here": "there"}), model="here")["model"] == "there"
    other = Target("w", names={"here": "there"}, serves=("there",))
    assert sent(other, model="here")["model"] == "there"


def test_routes_that_are_not_told_are_not_checked() -> None:
    assert body_for(STRICT, "/v1/embeddings", "mine", b'{"model":"mine","x":1}') == b'{"model":"mine","x":1}'
