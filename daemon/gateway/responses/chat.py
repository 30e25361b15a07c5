"""A request of the Responses API as a chat, and a chat's errors in the Responses API's names. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from fcd.errors import ApiError, invalid
from fcd.wire.openai_responses import InputItem, InputPart, ResponsesRequest, TextFormat

_AS_THEY_ARE: Final = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "stop", "keep_alive", "parallel_tool_calls", "metadata", "user", "service_tier", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention",
)  # fmt: skip
_NAMES: Final = (
    (re.compile(r"\bresponse_format\.json_schema\b"), "text.format"),
    (re.compile(r"\bresponse_format\b"), "text.format"),
    (re.compile(r"\bmax_(?:completion_)?tokens\b"), "max_output_tokens"),
    (re.compile(r"\breasoning_effort\b"), "reasoning.effort"),
    (re.compile(r"\b(tools\[\d+\]|tool_choice)\.function\b"), r"\1"),
    (re.compile(r"\bmessages\b(?:\[\d+\][\w.\[\]]*)?"), "input"),
)


def chat_body(request: ResponsesRequest) -> dict[str, Any]:
    """The body of the chat, streamed with its usage: the answer is put together here.

    Raises:
        ApiError: 400, items that do not follow each other.
    """
    body: dict[str, Any] = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": request.max_output_tokens,
        **{name: getattr(request, name) for name in _AS_THEY_ARE},
    }
    if request.tools:
        body["tools"] = [_tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in request.tools]
    if request.tool_choice is not None:
        choice = request.tool_choice
        body["tool_choice"] = (
            choice if isinstance(choice, str) else {"type": "function", "function": {"name": choice.name}}
        )
    if request.text is not None and request.text.format is not None:
        body["response_format"] = _format(request.text.format)
    if request.reasoning is not None:
        body["reasoning_effort"] = request.reasoning.effort
    if request.wants_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    return {name: value for name, value in body.items() if value is not None}


def renamed(error: ApiError) -> ApiError:
    """A chat's error, about the fields that this request has."""

    def rename(text: str) -> str:
        for pattern, name in _NAMES:
            text = pattern.sub(name, text)
        return text

    param = rename(error.param) if error.param else error.param
    message = rename(error.message) if error.status == 400 else error.message
    return ApiError(error.status, message, code=error.code, param=param, retry_after=error.retry_after)


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    if request.instructions:
        made.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        return [*made, {"role": "user", "content": request.input}]
    thought = ""
    for position, item in enumerate(request.input):
        if item.type == "reasoning":
            thought += _thoughts(item)
            continue
        if thought and not _is_answer(item):
            raise invalid(
                f"input[{position}]", "An item of type 'reasoning' must stand before the answer that it led to."
            )
        if item.type == "function_call":
            _add_call(made, item, thought)
        elif item.type == "function_call_output":
            made.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
        else:
            message = {"role": item.role, "content": _content(item.content)}
            made.append({**message, "reasoning_content": thought} if thought else message)
        thought = ""
    if thought:
        raise invalid("input", "An item of type 'reasoning' must stand before the answer that it led to.")
    return made


def _is_answer(item: InputItem) -> bool:
    return item.type == "function_call" or (item.type == "message" and item.role == "assistant")


def _add_call(made: list[dict[str, Any]], item: InputItem, thought: str) -> None:
    """Calls that stand behind an answer, or behind each other, are of one message."""
    call = {"id": item.call_id, "type": "function", "function": {"name": item.name, "arguments": item.arguments}}
    if not made or made[-1]["role"] != "assistant" or thought:
        made.append({"role": "assistant", "content": None, "tool_calls": []})
        if thought:
            made[-1]["reasoning_content"] = thought
    made[-1].setdefault("tool_calls", []).append(call)


def _thoughts(item: InputItem) -> str:
    parts = item.content if isinstance(item.content, list) else []
    text = "".join(part.text or "" for part in parts)
    return text or "\n".join(part.text or "" for part in item.summary or ())


def _content(content: str | list[InputPart] | None) -> str | list[dict[str, Any]]:
    if not isinstance(content, list):
        return content or ""
    return [_part(part) for part in content]


def _part(part: InputPart) -> dict[str, Any]:
    if part.type == "refusal":
        return {"type": "refusal", "refusal": part.refusal}
    if part.type == "input_image":
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": part.image_url, **detail}}
    return {"type": "text", "text": part.text}


def _tool(
    name: str | None, description: str | None, parameters: dict[str, Any] | None, strict: bool | None
) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


def _format(form: TextFormat) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    said = {"name": form.name, "description": form.description, "schema": form.schema, "strict": form.strict}
    return {"type": "json_schema", "json_schema": {key: value for key, value in said.items() if value is not None}}
