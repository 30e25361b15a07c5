"""POST /v1/embeddings, and vLLM's /tokenize, /detokenize and /tokenizer_info."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from fcd.errors import invalid
from fcd.wire.openai_chat import Message, check_messages, check_template_kwargs
from fcd.wire.openai_completions import Prompt, check_prompt
from fcd.wire.openai_decode import RequestDecoder
from fcd.wire.openai_sampling import ModelName, TokenId, Word, check_keep_alive

MAX_INPUTS: Final = 2048


class EmbeddingRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: ModelName
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=2**20)] | None = None
    user: Word | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    add_special_tokens: bool | None = None
    keep_alive: str | int | float | None = None

    @property
    def inputs(self) -> list[Prompt]:
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [tuple(self.input)]  # type: ignore[arg-type]
        return [item if isinstance(item, str) else tuple(item) for item in self.input]  # type: ignore[arg-type]


class TokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A prompt, or the messages of a chat."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    """Default: true for a prompt, false for messages, whose template writes them."""
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    model: ModelName | None = None
    tokens: list[TokenId]


class TokenizeAnswer(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeAnswer(msgspec.Struct):
    prompt: str


_EMBEDDING: Final = RequestDecoder(EmbeddingRequest)
_TOKENIZE: Final = RequestDecoder(TokenizeRequest)
_DETOKENIZE: Final = RequestDecoder(DetokenizeRequest)


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Read and check a request; ApiError 400 names the field."""
    request = _EMBEDDING.decode(body)
    check_prompt(request.input, "input", MAX_INPUTS)
    check_keep_alive(request.keep_alive)
    if request.truncate_prompt_tokens == 0:
        raise invalid("truncate_prompt_tokens", "'truncate_prompt_tokens' must be -1 or at least 1.")
    return request


def parse_tokenize(body: bytes) -> TokenizeRequest:
    """Read and check a request; ApiError 400 names the field."""
    request = _TOKENIZE.decode(body)
    if (request.prompt is None) == (request.messages is None):
        raise invalid("prompt", "Give 'prompt' or 'messages', one of them.")
    if request.messages is not None:
        check_messages(request.messages)
        check_template_kwargs(request.chat_template_kwargs)
        return request
    for name in ("add_generation_prompt", "chat_template_kwargs"):
        if getattr(request, name) is not None:
            raise invalid(name, f"'{name}' needs 'messages'.")
    return request


def parse_detokenize(body: bytes) -> DetokenizeRequest:
    """Read and check a request; ApiError 400 names the field."""
    return _DETOKENIZE.decode(body)
