"""POST /v1/chat/completions: every field of OpenAI's request, honoured or refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from fcd.errors import ApiError, invalid, unsupported
from fcd.wire.openai_decode import RequestDecoder
from fcd.wire.openai_images import ImageCount, ImageUrl
from fcd.wire.openai_sampling import MAX_LOGPROBS, SamplingFields, check_min_tokens, check_sampling, refuse
from fcd.wire.openai_tools import JsonForm, ResponseFormat, Tool, ToolChoice, ToolUse, json_form, tool_use

MAX_MESSAGES: Final = 4096

Role = Literal["system", "developer", "user", "assistant", "tool"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

_NOT_OFFERED: Final[dict[str, tuple[Any, ...]]] = {
    "functions": (),
    "function_call": (),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),
    "suffix": (),
    "best_of": (1,),
    "echo": (False,),
}
"""Fields that are understood but not offered, with the values that ask for nothing."""

_PARTS: Final = {"assistant": ("text", "refusal"), "user": ("text", "image_url")}
"""The types of parts that messages may have beside plain text, by role."""

RESERVED_KWARGS: Final = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""What a template gets from elsewhere and a request must not replace."""


class ContentPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | None = None
    input_audio: Any = None
    file: Any = None


class FunctionCall(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    arguments: str


class ToolCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    """Part of OpenAI's own answers, which clients send back; it asks for nothing."""
    audio: Any = None
    function_call: Any = None

    @property
    def text(self) -> str:
        """The message's text; parts stand on lines of their own."""
        if self.content is None:
            return self.refusal or ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text or part.refusal or "" for part in self.content if part.image_url is None)

    @property
    def images(self) -> list[ImageUrl]:
        """Those among its parts, in order."""
        return [image for _, image in images_in([self])]


class ChatRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    messages: list[Message]
    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: ReasoningEffort | None = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    modalities: Any = None
    prediction: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    moderation: Any = None
    suffix: Any = None
    best_of: Any = None
    echo: Any = None

    @property
    def limit(self) -> int | None:
        """How many tokens may be generated; None leaves it to the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def first_image(self) -> str:
        """Where the request's first image is; empty without any."""
        return next((where for where, _ in images_in(self.messages)), "")

    @property
    def top(self) -> int | None:
        """How many alternatives per token; None when no log-probabilities are wanted."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def tool_use(self) -> ToolUse | None:
        """What the model may call; None for nothing."""
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def json_form(self) -> JsonForm | None:
        """The form that the answer must have; None for text."""
        return json_form(self.response_format)


_DECODER: Final = RequestDecoder(ChatRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """Read and check a request.

    Raises:
        ApiError: 400 naming the field in `param`.
    """
    request = _DECODER.decode(body)
    refuse(request, _NOT_OFFERED)
    check_sampling(request)
    _check_limits(request)
    _check_forms(request)
    check_messages(request.messages)
    check_template_kwargs(request.chat_template_kwargs)
    return request


def check_template_kwargs(kwargs: dict[str, Any] | None) -> None:
    """Refuse names that would replace what the template gets from elsewhere."""
    for name in kwargs or ():
        if name in RESERVED_KWARGS:
            raise unsupported(f"chat_template_kwargs.{name}")


def _check_limits(request: ChatRequest) -> None:
    old, new = request.max_tokens, request.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise invalid("max_tokens", "'max_tokens' and 'max_completion_tokens' differ; give one of them.")
    check_min_tokens(request, "max_tokens" if new is None else "max_completion_tokens", request.limit)
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.")
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs", "'prompt_logprobs' cannot be streamed.")


def _check_forms(request: ChatRequest) -> None:
    """Tools and the answer's form, and what does not go together with them."""
    if request.tool_use is None and request.json_form is None:
        return
    for name, given in (("min_tokens", request.min_tokens), ("ignore_eos", request.ignore_eos)):
        if given:
            raise invalid(name, f"'{name}' cannot be kept where tools or 'response_format' say what may follow.")


def check_messages(messages: list[Message]) -> None:
    if not messages:
        raise invalid("messages", "'messages' must hold at least one message.")
    if len(messages) > MAX_MESSAGES:
        raise invalid("messages", f"'messages' may hold {MAX_MESSAGES} messages, not {len(messages)}.")
    images = ImageCount()
    for position, message in enumerate(messages):
        _check_message(message, f"messages[{position}]", images)


def images_in(messages: Sequence[Message]) -> Iterator[tuple[str, ImageUrl]]:
    """The images of these messages in order, each with the field that holds it."""
    for position, message in enumerate(messages):
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if part.image_url is not None:
                yield f"messages[{position}].content[{number}].image_url", part.image_url


def _check_message(message: Message, where: str, images: ImageCount) -> None:
    for name in ("audio", "function_call"):
        if getattr(message, name) is not None:
            raise unsupported(f"{where}.{name}")
    if message.role == "tool":
        if message.tool_call_id is None:
            raise invalid(f"{where}.tool_call_id", f"'{where}.tool_call_id' is required in a tool message.")
    elif message.tool_call_id is not None:
        raise invalid(f"{where}.tool_call_id", "'tool_call_id' belongs to messages of role 'tool'.")
    if message.role != "assistant":
        for name in ("tool_calls", "reasoning_content", "refusal"):
            if getattr(message, name) is not None:
                raise invalid(f"{where}.{name}", f"'{name}' belongs to messages of role 'assistant'.")
    if message.content is None and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
        raise invalid(f"{where}.content", f"'{where}.content' is required: a string or a list of text parts.")
    if isinstance(message.content, list):
        _check_parts(message, f"{where}.content", images)


def _check_parts(message: Message, where: str, images: ImageCount) -> None:
    assert isinstance(message.content, list)
    if not message.content:
        raise invalid(where, f"'{where}' must hold at least one part.")
    for position, part in enumerate(message.content):
        at = f"{where}[{position}]"
        allowed = _PARTS.get(message.role, ("text",))
        if part.type not in allowed:
            raise ApiError(
                400,
                f"'{at}.type' is '{part.type[:40]}': a message of role '{message.role}' takes parts of"
                f" type {' and '.join(allowed)} only.",
                code="unsupported_content_part",
                param=f"{at}.type",
            )
        for name in ("text", "refusal", "image_url", "input_audio", "file"):
            given = getattr(part, name) is not None
            if given and name != part.type:
                raise invalid(f"{at}.{name}", f"'{at}.{name}' does not belong to a part of type '{part.type}'.")
            if not given and name == part.type:
                raise invalid(f"{at}.{name}", f"'{at}.{name}' is required.")
        if part.image_url is not None:
            images.add(part.image_url.url, f"{at}.image_url.url")
