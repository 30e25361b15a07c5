"""OpenAI's answers: the objects of a whole answer and the chunks of a streamed one."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptDetails(msgspec.Struct):
    cached_tokens: int = 0


class CompletionDetails(msgspec.Struct):
    reasoning_tokens: int = 0


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails = msgspec.field(default_factory=PromptDetails)
    completion_tokens_details: CompletionDetails | msgspec.UnsetType = msgspec.UNSET
    """For models that think before they answer."""


def usage_of(
    prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0, reasoning_tokens: int | None = None
) -> Usage:
    usage = Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens, PromptDetails(cached_tokens))
    if reasoning_tokens is not None:
        usage.completion_tokens_details = CompletionDetails(reasoning_tokens)
    return usage


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatLogprob]
    refusal: None = None


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists, one entry per token; a prompt's first token has null for its log-probability and its top."""

    text_offset: list[int] = []
    token_logprobs: list[float | None] = []
    tokens: list[str] = []
    top_logprobs: list[dict[str, float] | None] = []


class PromptLogprob(msgspec.Struct):
    """vLLM's entry for a token of the prompt; `rank` is null outside the likeliest ones."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str
    """JSON text."""


class AnsweredCall(msgspec.Struct):
    id: str
    function: CalledFunction
    type: str = "function"


class AssistantMessage(msgspec.Struct):
    role: str
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[AnsweredCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = None


class ChatCompletion(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "chat.completion"
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType | None = msgspec.UNSET


class CompletionChoice(msgspec.Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    prompt_logprobs: PromptLogprobs | msgspec.UnsetType | None = msgspec.UNSET


class Completion(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
    object: str = "text_completion"


class Embedding(msgspec.Struct):
    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(msgspec.Struct):
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    object: str = "list"


class ModelCard(msgspec.Struct):
    id: str
    created: int
    max_model_len: int
    object: str = "model"
    owned_by: str = "fcd"
    parent: str | None = None
    """The model that an adapter is over, as vLLM says it."""
    capabilities: list[str] = []
    """What it can do, `vision` among it."""


class ModelCards(msgspec.Struct):
    data: list[ModelCard]
    object: str = "list"


DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"
"""A server-sent comment: readers pass over it, and nothing between cuts a connection that is alive."""

_encode = msgspec.json.Encoder().encode


def error_event(body: dict[str, Any]) -> bytes:
    """How a stream ends that failed after it began; no `[DONE]` follows."""
    return b"event: error\ndata: " + _encode(body) + b"\n\n"


class ChunkWriter:
    """Writes the chunks of one stream: what does not change is encoded once, so an event costs one string's encoding.

    Args:
        kind: `chat` or `completion`.
        with_usage: every chunk carries `"usage": null`, as OpenAI's do when the usage was asked for.
    """

    def __init__(
        self,
        kind: Literal["chat", "completion"],
        *,
        id: str,
        created: int,
        model: str,
        fingerprint: str,
        with_usage: bool,
    ) -> None:
        self._chat = kind == "chat"
        head = {
            "id": id,
            "object": "chat.completion.chunk" if self._chat else "text_completion",
            "created": created,
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._head = b"data: " + _encode(head)[:-1]
        self._end = b',"usage":null}\n\n' if with_usage else b"}\n\n"
        close = b"}" if self._chat else b""
        self._plain_end = close + b',"logprobs":null,"finish_reason":null}]' + self._end
        self._starts: dict[int, bytes] = {}

    def _start(self, index: int) -> bytes:
        start = self._starts.get(index)
        if start is None:
            text = b',"delta":{"content":' if self._chat else b',"text":'
            start = self._starts[index] = self._head + b',"choices":[{"index":%d' % index + text
        return start

    def role(self, index: int) -> bytes:
        """A chat choice's first chunk."""
        delta = b',"choices":[{"index":%d,"delta":{"role":"assistant","content":""}' % index
        return self._head + delta + b',"logprobs":null,"finish_reason":null}]' + self._end

    def text(self, index: int, text: str) -> bytes:
        """A piece of the answer."""
        return self._start(index) + _encode(text) + self._plain_end

    def reasoning(self, index: int, text: str) -> bytes:
        """A piece of what a model thinks before it answers."""
        return self._delta(index, {"reasoning_content": text})

    def call(self, index: int, position: int, id: str, name: str) -> bytes:
        """A call of a tool begins; its arguments follow."""
        function = {"name": name, "arguments": ""}
        return self._delta(
            index, {"tool_calls": [{"index": position, "id": id, "type": "function", "function": function}]}
        )

    def arguments(self, index: int, position: int, text: str) -> bytes:
        """A piece of a call's arguments."""
        return self._delta(index, {"tool_calls": [{"index": position, "function": {"arguments": text}}]})

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._head + b',"choices":[{"index":%d,"delta":' % index + _encode(delta) + self._plain_end[1:]

    def text_with_logprobs(self, index: int, text: str, logprobs: ChatLogprobs | CompletionLogprobs) -> bytes:
        close = b'},"logprobs":' if self._chat else b',"logprobs":'
        return self._start(index) + _encode(text) + close + _encode(logprobs) + b',"finish_reason":null}]' + self._end

    def finish(self, index: int, reason: FinishReason, stop_reason: str | int | None) -> bytes:
        empty = b',"delta":{}' if self._chat else b',"text":""'
        return (
            self._head
            + b',"choices":[{"index":%d' % index
            + empty
            + b',"logprobs":null,"finish_reason":"%b","stop_reason":' % reason.encode()
            + _encode(stop_reason)
            + b"}]"
            + self._end
        )

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, without choices."""
        return self._head + b',"choices":[],"usage":' + _encode(usage) + b"}\n\n"
