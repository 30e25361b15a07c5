"""The fields that vLLM's routes read, from its own description of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fcd.wire.openai_other import DetokenizeRequest, EmbeddingRequest, TokenizeRequest

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
    "/v1/embeddings": [*EmbeddingRequest.__struct_fields__],
    "/tokenize": [*TokenizeRequest.__struct_fields__],
    "/detokenize": [*DetokenizeRequest.__struct_fields__],
}
"""For a route that the server does not describe: what every vLLM since 0.9 reads."""
_ALWAYS: Final = ("/v1/chat/completions", "/v1/completions")
"""What a server that describes nothing is taken to serve."""


def read_routes(document: bytes) -> list[str]:
    """Those of the relayed routes that the server has."""
    paths = _paths(_decoded(document))
    return [route for route in ROUTES if route in (_ALWAYS if paths is None else paths)]


def read_fields(document: bytes) -> dict[str, list[str]]:
    """Route -> names of its fields, for every route that is relayed and that the server may have.

    A route whose fields the description does not tell is held to those that are known of it: an unknown one is never
    passed over.
    """
    described = _decoded(document)
    paths = _paths(described)
    return {
        route: sorted(_fields(described, route)) or list(_WITHOUT_DESCRIPTION[route])
        for route in ROUTES
        if paths is None or route in paths
    }


def _decoded(document: bytes) -> Any:
    try:
        return msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _paths(described: Any) -> Mapping[str, Any] | None:
    """None: it describes none of the relayed routes, so it says nothing of them."""
    paths = described.get("paths") if isinstance(described, dict) else None
    return paths if isinstance(paths, dict) and any(route in paths for route in ROUTES) else None


def _fields(document: Any, route: str) -> set[str]:
    """Empty where it does not tell."""
    try:
        return _properties(document, document["paths"][route]["post"]["requestBody"]["content"])
    except (KeyError, TypeError, AttributeError):
        return set()


def _properties(document: Mapping[str, Any], content: Mapping[str, Any]) -> set[str]:
    body = content["application/json"]["schema"]
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
