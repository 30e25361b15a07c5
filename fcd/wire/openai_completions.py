"""POST /v1/completions, with prompts as text or token ids, one or many."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from fcd.errors import invalid
from fcd.wire.openai_decode import RequestDecoder
from fcd.wire.openai_sampling import (
    MAX_CHOICES,
    MAX_LOGPROBS,
    SamplingFields,
    TokenId,
    check_min_tokens,
    check_sampling,
    refuse,
)

MAX_PROMPTS: Final = 256
DEFAULT_MAX_TOKENS: Final = 16

_NOT_OFFERED: Final[dict[str, tuple[Any, ...]]] = {
    "suffix": ("",),
    "response_format": ({"type": "text"},),
}

Prompt = str | tuple[int, ...]
"""Text to tokenise, or token ids."""


class CompletionRequest(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[str | TokenId | list[TokenId]]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    suffix: Any = None
    response_format: Any = None

    @property
    def limit(self) -> int:
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def samples(self) -> int:
        """How many completions are sampled for each prompt; `choices` of them are given back."""
        return max(self.best_of or 0, self.choices)

    @property
    def prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [tuple(self.prompt)]  # type: ignore[arg-type]
        return [item if isinstance(item, str) else tuple(item) for item in self.prompt]  # type: ignore[arg-type]


_DECODER: Final = RequestDecoder(CompletionRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Read and check a request.

    Raises:
        ApiError: 400 naming the field in `param`.
    """
    request = _DECODER.decode(body)
    refuse(request, _NOT_OFFERED)
    check_sampling(request)
    check_prompt(request.prompt, "prompt")
    check_min_tokens(request, "max_tokens", request.limit)
    _check_choices(request)
    if request.prompt_logprobs is not None and request.stream:
        raise invalid("prompt_logprobs", "'prompt_logprobs' cannot be streamed.")
    return request


def check_prompt(prompt: str | list[Any], name: str, most: int = MAX_PROMPTS) -> None:
    """A list holds texts, token ids, or lists of token ids, and nothing mixed or empty."""
    if isinstance(prompt, str):
        return
    if not prompt:
        raise invalid(name, f"'{name}' must not be an empty list.")
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise invalid(name, f"'{name}' mixes strings, token ids and lists; a list holds one kind.")
    if kinds != {int} and len(prompt) > most:
        raise invalid(name, f"'{name}' may hold {most} entries, not {len(prompt)}.")
    for position, item in enumerate(prompt):
        if isinstance(item, list) and not item:
            raise invalid(f"{name}[{position}]", f"'{name}[{position}]' must hold at least one token id.")


def _check_choices(request: CompletionRequest) -> None:
    if request.best_of is None:
        return
    if request.best_of < request.choices:
        raise invalid("best_of", f"'best_of' ({request.best_of}) must be at least 'n' ({request.choices}).")
    if request.stream and request.best_of > request.choices:
        raise invalid("best_of", "'best_of' cannot be streamed: the best are known at the end only.")
