"""POST /v1/responses: every field of OpenAI's Responses API, honoured or refused by name.

Sampling fields keep vLLM's names, as in chat completions; what a chat checks itself is only passed on to it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from fcd.errors import ApiError, invalid, unsupported
from fcd.wire.openai_chat import MAX_MESSAGES, ReasoningEffort
from fcd.wire.openai_decode import RequestDecoder
from fcd.wire.openai_images import Detail, ImageCount
from fcd.wire.openai_sampling import MAX_LOGPROBS, CommonFields, refuse
from fcd.wire.openai_tools import FunctionName

LOGPROBS: Final = "message.output_text.logprobs"

_NOT_OFFERED: Final[dict[str, tuple[Any, ...]]] = {
    "background": (False,),
    "conversation": (),
    "previous_response_id": (),
    "prompt": (),
    "max_tool_calls": (),
    "truncation": ("disabled",),
}
"""Fields that are understood but not offered, with the values that ask for nothing."""

_FIELDS_OF: Final[dict[str, tuple[str, ...]]] = {
    "message": ("role", "content", "phase"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary", "content", "encrypted_content"),
}
_NEEDED: Final[dict[str, tuple[str, ...]]] = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": (),
}
_PART_TYPES: Final[dict[str, str]] = {
    "input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal", "reasoning_text": "text",
    "summary_text": "text", "input_image": "image_url",
}  # fmt: skip


class InputPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    """Part of answers, which clients send back; it asks for nothing, as do `logprobs`."""
    logprobs: list[Any] | None = None
    image_url: str | None = None
    """A `data:` URL in base64; nothing is fetched."""
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Detail | None = None
    input_audio: Any = None


class InputItem(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message, a call that the model made, what came of it, or what the model thought: `type` says which."""

    type: str = "message"
    id: str | None = None
    status: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None
    summary: list[InputPart] | None = None
    encrypted_content: Any = None


class ResponseTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunction(FunctionName, forbid_unknown_fields=True):
    type: Literal["function"] = "function"


class TextFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: TextFormat | None = None
    verbosity: Any = None


class Reasoning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    effort: ReasoningEffort | None = None
    summary: Any = None
    generate_summary: Any = None


class ResponseStreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None
    """Only false, which is what happens, is taken."""


class ResponsesRequest(CommonFields, kw_only=True, forbid_unknown_fields=True):
    input: str | list[InputItem]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    stream_options: ResponseStreamOptions | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    background: Any = None
    conversation: Any = None
    previous_response_id: Any = None
    prompt: Any = None
    max_tool_calls: Any = None
    truncation: Any = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())


class ResponseObject(msgspec.Struct, kw_only=True):
    """What is answered, and what the events of a streamed answer hold."""

    id: str
    created_at: float
    model: str
    object: str = "response"
    status: Literal["in_progress", "completed", "incomplete", "failed"] = "in_progress"
    completed_at: float | None = None
    background: bool = False
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    output: list[dict[str, Any]] = []
    parallel_tool_calls: bool = True
    previous_response_id: None = None
    reasoning: dict[str, Any] = {}
    store: bool = False
    temperature: float | None = None
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: list[dict[str, Any]] = []
    top_logprobs: int = 0
    top_p: float | None = None
    truncation: str = "disabled"
    usage: dict[str, Any] | None = None
    user: str | None = None


_DECODER: Final = RequestDecoder(ResponsesRequest)


def parse_responses(body: bytes) -> ResponsesRequest:
    """Read and check what only this route has; the chat that it becomes checks the rest.

    Raises:
        ApiError: 400 naming the field in `param`.
    """
    request = _DECODER.decode(body)
    refuse(request, _NOT_OFFERED)
    _check_options(request)
    _check_tools(request)
    if isinstance(request.input, list):
        _check_items(request.input)
    return request


def _check_options(request: ResponsesRequest) -> None:
    if request.stream_options is not None and request.stream_options.include_obfuscation:
        raise unsupported("stream_options.include_obfuscation")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    if request.text is not None and request.text.verbosity is not None:
        raise unsupported("text.verbosity")
    if request.reasoning is not None:
        for name in ("summary", "generate_summary"):
            if getattr(request.reasoning, name) not in (None, "auto", "none"):
                raise unsupported(f"reasoning.{name}")
    for position, name in enumerate(request.include or ()):
        if name != LOGPROBS:
            raise unsupported(f"include[{position}]")
    if request.top_logprobs and not request.wants_logprobs:
        raise invalid("top_logprobs", f"'top_logprobs' needs '{LOGPROBS}' in 'include'.")
    form = request.text.format if request.text is not None else None
    if form is not None and form.type != "json_schema":
        for name in ("name", "description", "schema", "strict"):
            if getattr(form, name) is not None:
                raise invalid(f"text.format.{name}", f"'text.format.{name}' belongs to the type 'json_schema'.")
    elif form is not None:
        for name in ("name", "schema"):
            if getattr(form, name) is None:
                raise invalid(f"text.format.{name}", f"'text.format.{name}' is required for this type.")


def _check_tools(request: ResponsesRequest) -> None:
    for position, tool in enumerate(request.tools or ()):
        if tool.type != "function":
            raise ApiError(
                400,
                f"'tools[{position}].type' is '{tool.type[:40]}': only tools of type 'function' are offered here.",
                code="unsupported_parameter",
                param=f"tools[{position}].type",
            )
        if tool.name is None:
            raise invalid(f"tools[{position}].name", f"'tools[{position}].name' is required.")


def _check_items(items: list[InputItem]) -> None:
    if not items:
        raise invalid("input", "'input' must be a text or hold at least one item.")
    if len(items) > MAX_MESSAGES:
        raise invalid("input", f"'input' may hold {MAX_MESSAGES} items, not {len(items)}.")
    images = ImageCount()
    for position, item in enumerate(items):
        _check_item(item, f"input[{position}]", images)


def _check_item(item: InputItem, where: str, images: ImageCount) -> None:
    if item.type not in _FIELDS_OF:
        raise ApiError(
            400,
            f"'{where}.type' is '{item.type[:40]}': there are {', '.join(_FIELDS_OF)}."
            + (" Nothing is stored that could be referred to." if item.type == "item_reference" else ""),
            code="unsupported_parameter",
            param=f"{where}.type",
        )
    for name in item.__struct_fields__:
        given, known = getattr(item, name) is not None, name in ("type", "id", "status", *_FIELDS_OF[item.type])
        if given and not known:
            raise invalid(f"{where}.{name}", f"'{where}.{name}' does not belong to an item of type '{item.type}'.")
    for name in _NEEDED[item.type]:
        if getattr(item, name) is None:
            raise invalid(f"{where}.{name}", f"'{where}.{name}' is required.")
    if item.encrypted_content is not None:
        raise unsupported(f"{where}.encrypted_content")
    for name in ("content", "output", "summary"):
        parts = getattr(item, name)
        if isinstance(parts, list):
            sees = name == "content" and item.role == "user"
            for number, part in enumerate(parts):
                _check_part(part, f"{where}.{name}[{number}]", images if sees else None)


def _check_part(part: InputPart, where: str, images: ImageCount | None) -> None:
    """Raises ApiError 400. `images` None: there can be none here."""
    field = _PART_TYPES.get(part.type)
    if field is None or (part.type == "input_image" and images is None):
        raise ApiError(
            400,
            f"'{where}.type' is '{part.type[:40]}': there are input_text, output_text and refusal, and input_image in"
            " messages of the user.",
            code="unsupported_content_part",
            param=f"{where}.type",
        )
    if part.type == "input_image" and part.file_id is not None:
        raise unsupported(f"{where}.file_id")
    for name in part.__struct_fields__:
        if name in ("type", "annotations", "logprobs") or (name == "detail" and part.type == "input_image"):
            continue
        if getattr(part, name) is not None and name != field:
            raise invalid(f"{where}.{name}", f"'{where}.{name}' does not belong to a part of type '{part.type}'.")
    if getattr(part, field) is None:
        raise invalid(f"{where}.{field}", f"'{where}.{field}' is required.")
    if images is not None and part.image_url is not None:
        images.add(part.image_url, f"{where}.image_url")
