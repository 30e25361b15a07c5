"""The fields that vLLM's routes read, from its own description of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

ROUTES: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize")
_MOST_STEPS = 64

_SAMPLING: Final = (
    *("model", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "response_format"),
    *("seed", "stop", "stream", "stream_options", "temperature", "top_p", "user", "top_k", "min_p"),
    *("repetition_penalty", "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens"),
    *("skip_special_tokens", "truncate_prompt_tokens", "prompt_logprobs", "add_special_tokens", "echo"),
)
_WITHOUT_DESCRIPTION: Final = {
    "/v1/chat/completions": [
        *_SAMPLING,
        *("messages", "top_logprobs", "max_completion_tokens", "tools", "tool_choice", "parallel_tool_calls"),
        *("reasoning_effort", "chat_template_kwargs"),
    ],
    "/v1/completions": [*_SAMPLING, "prompt", "suffix", "best_of"],
}
"""For a server that does not describe itself: what every vLLM since 0.9 reads."""


def read_fields(document: bytes) -> dict[str, list[str]]:
    """Route -> names of its fields, for the routes that are relayed."""
    try:
        described = msgspec.json.decode(document)
        found = {route: sorted(_fields(described, route)) for route in ROUTES if route in described["paths"]}
    except (msgspec.MsgspecError, KeyError, TypeError):
        found = {}
    return {route: names for route, names in found.items() if names} or dict(_WITHOUT_DESCRIPTION)


def _fields(document: Mapping[str, Any], route: str) -> set[str]:
    body = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names: set[str] = set()
    left, steps = [body], 0
    while left and steps < _MOST_STEPS:
        schema, steps = left.pop(), steps + 1
        if "$ref" in schema:
            target: Any = document
            for part in str(schema["$ref"]).removeprefix("#/").split("/"):
                target = target[part]
            left.append(target)
        names.update(schema.get("properties") or ())
        for kind in ("anyOf", "oneOf", "allOf"):
            left += schema.get(kind) or []
    return names
