"""What a FastChat worker can do of an OpenAI request: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from fcd.errors import ApiError
from fcd.templates import Turn
from fcd.wire.openai import ChatRequest, CompletionRequest, EmbeddingRequest, Message, SamplingFields
from fcd.wire.openai_chat import images_in
from fcd.wire.openai_images import blind
from fcd.wire.openai_tools import ResponseFormat


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_HARMLESS: Final = _words(
    "model stream stream_options keep_alive user metadata store service_tier safety_identifier prompt_cache_key"
    " prompt_cache_retention"
)
_SAMPLING: Final = _words("temperature top_p top_k repetition_penalty n stop stop_token_ids max_tokens")
_CHAT: Final = _HARMLESS | _SAMPLING | _words("messages max_completion_tokens logprobs top_logprobs")
_COMPLETION: Final = _HARMLESS | _SAMPLING | _words("prompt echo logprobs best_of")
_EMBEDDING: Final = _words("model input encoding_format user keep_alive")

_ASKS_NOTHING: Final[Mapping[str, tuple[Any, ...]]] = {
    "min_p": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "include_stop_str_in_output": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "chat_template_kwargs": ({},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "response_format": (ResponseFormat("text"),),
    "modalities": (["text"],),
    "suffix": ("",),
    "echo": (False,),
    "best_of": (1,),
}
"""Values of other fields that change nothing."""

IMAGE_PLACE: Final = "$$<image>$$"
"""What FastChat writes into a prompt where an image stands, before the turn's text."""

_LEAST_TEMPERATURE = 1e-5
"""Below this FastChat decodes greedily."""


def is_greedy(asked: SamplingFields) -> bool:
    """Whether the likeliest token is taken each time, so that a chosen token is the likeliest one."""
    return (asked.temperature is not None and asked.temperature < _LEAST_TEMPERATURE) or asked.top_p == 0


def check_chat(asked: ChatRequest, *, sees: bool = False) -> None:
    """Raises ApiError 400 that names the field. `sees`: the worker registered as one that takes images."""
    if asked.first_image and not sees:
        raise blind(asked.model, asked.first_image)
    _check(asked, _CHAT)
    _check_sampling(asked)
    if asked.top_logprobs and not (asked.top_logprobs == 1 and is_greedy(asked)):
        raise _refused("top_logprobs", "it tells the log-probability of the chosen token only")
    for position, message in enumerate(asked.messages):
        _check_message(message, f"messages[{position}]")
    for where, image in images_in(asked.messages):
        if image.detail not in (None, "auto", "high"):
            raise _refused(f"{where}.detail", "it always looks at the whole image")


def check_completion(asked: CompletionRequest) -> None:
    """Raises ApiError 400 that names the field."""
    _check(asked, _COMPLETION)
    _check_sampling(asked)
    if asked.limit < 1:
        raise _refused("max_tokens", "it always generates at least one token")
    if asked.samples > asked.choices:
        raise _refused("best_of")
    if asked.logprobs is not None and (asked.logprobs > 1 or (asked.logprobs == 1 and not is_greedy(asked))):
        raise _refused("logprobs", "it tells the log-probability of the chosen token only: ask for 0")
    if asked.echo and asked.logprobs is not None:
        raise _refused("echo", "it tells no log-probabilities of the prompt")
    for position, prompt in enumerate(asked.prompts):
        if not isinstance(prompt, str):
            raise _refused(_numbered("prompt", position, len(asked.prompts)), "it takes text only, not token ids")


def check_embedding(asked: EmbeddingRequest) -> None:
    """Raises ApiError 400 that names the field."""
    _check(asked, _EMBEDDING)
    for position, text in enumerate(asked.inputs):
        if not isinstance(text, str):
            raise _refused(_numbered("input", position, len(asked.inputs)), "it takes text only, not token ids")


def turns_of(messages: list[Message]) -> list[Turn]:
    return [
        Turn(
            "system" if message.role == "developer" else message.role,
            IMAGE_PLACE * len(message.images) + message.text,
        )
        for message in messages
    ]


def images_of(messages: list[Message]) -> list[str]:
    """The images in order, in base64, as FastChat's workers take them."""
    return [image.url.partition(",")[2] for message in messages for image in message.images]


def sampling_of(asked: SamplingFields) -> dict[str, Any]:
    """FastChat's parameters for how tokens are chosen. Its workers fail at null, so every number is written."""
    return {
        "temperature": 1.0 if asked.temperature is None else asked.temperature,
        "top_p": 1.0 if asked.top_p is None else asked.top_p,
        "top_k": asked.top_k or -1,
        "repetition_penalty": 1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": list(asked.stop_token_ids or ()),
        "use_beam_search": False,
        "best_of": None,
        "echo": False,
    }


def _check(asked: msgspec.Struct, honoured: frozenset[str]) -> None:
    """Refuse every field that is set and that a FastChat worker would pass over."""
    for name in asked.__struct_fields__:
        value = getattr(asked, name)
        if value is None or name in honoured:
            continue
        default = isinstance(asked, CompletionRequest)
        harmless = (default,) if name == "add_special_tokens" else _ASKS_NOTHING.get(name, ())
        if not any(value == ok for ok in harmless):
            raise _refused(name)


def _check_sampling(asked: SamplingFields) -> None:
    if asked.repetition_penalty is not None and asked.repetition_penalty < 1:
        raise _refused("repetition_penalty", "it takes values from 1 on")


def _check_message(message: Message, where: str) -> None:
    if message.role == "tool":
        raise _refused(f"{where}.role", "it knows no tools")
    if message.tool_calls:
        raise _refused(f"{where}.tool_calls", "it knows no tools")


def _numbered(name: str, position: int, count: int) -> str:
    return name if count == 1 else f"{name}[{position}]"


def _refused(name: str, why: str = "") -> ApiError:
    reason = f": {why}" if why else ""
    return ApiError(
        400,
        f"'{name}' cannot be used with this model, which a FastChat worker serves{reason}. Leave it out.",
        code="unsupported_parameter",
        param=name,
    )
