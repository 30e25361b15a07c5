"""The fields that requests for text share: sampling, stopping, streaming, bookkeeping.

OpenAI's names where OpenAI has one, else vLLM's. `null` means absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fcd.errors import ApiError, ConfigError, invalid, unsupported
from fcd.settings import parse_duration

MAX_CHOICES: Final = 16
MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 512
MAX_BIASES: Final = 1024
MAX_STOP_IDS: Final = 64
MAX_LOGPROBS: Final = 20

Unit = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenCount = Annotated[int, Meta(ge=0, le=2**31 - 1)]
ModelName = Annotated[str, Meta(min_length=1, max_length=512)]
Word = Annotated[str, Meta(max_length=4096)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Only false, which is what happens, is taken."""
    continuous_usage_stats: bool | None = None
    """Only false is taken."""


class CommonFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every route that generates text takes, range-checked by msgspec."""

    model: ModelName
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Unit | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """0 and -1 are off."""
    min_p: Unit | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    keep_alive: str | int | float | None = None
    """How long the model stays loaded after this request; the daemon reads it."""
    user: Word | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    """Nothing is stored, whatever it says."""
    service_tier: Word | None = None
    safety_identifier: Word | None = None
    prompt_cache_key: Word | None = None
    prompt_cache_retention: Word | None = None


class SamplingFields(CommonFields, kw_only=True, forbid_unknown_fields=True):
    """What chat completions and completions take besides; `check_sampling` checks what types do not say."""

    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: TokenCount | None = None
    skip_special_tokens: bool | None = None
    add_special_tokens: bool | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    """Keep the prompt's last k tokens; -1 keeps what the context holds."""

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def biases(self) -> dict[int, float]:
        return {int(key): value for key, value in (self.logit_bias or {}).items()}


def check_sampling(request: SamplingFields) -> None:
    """What types alone do not say.

    Raises:
        ApiError: 400 naming the field.
    """
    _check_stream(request)
    _check_stop(request)
    _check_bias(request)
    check_keep_alive(request.keep_alive)
    if request.truncate_prompt_tokens == 0:
        raise invalid("truncate_prompt_tokens", "'truncate_prompt_tokens' must be -1 or at least 1.")
    if len(request.metadata or ()) > 16:
        raise invalid("metadata", "'metadata' may hold 16 pairs.")


def check_min_tokens(request: SamplingFields, name: str, max_tokens: int | None) -> None:
    if max_tokens is not None and (request.min_tokens or 0) > max_tokens:
        raise invalid("min_tokens", f"'min_tokens' ({request.min_tokens}) is more than '{name}' ({max_tokens}).")


def refuse(request: msgspec.Struct, fields: dict[str, tuple[Any, ...]]) -> None:
    """Refuse what is understood but not offered. `fields` maps a name to the values that ask for nothing.

    Raises:
        ApiError: 400 `unsupported_parameter` naming the field.
    """
    for name, harmless in fields.items():
        value = getattr(request, name)
        if value is not None and not any(type(value) is type(ok) and value == ok for ok in harmless):
            raise unsupported(name)


def _check_stream(request: SamplingFields) -> None:
    options = request.stream_options
    if options is None:
        return
    if not request.stream:
        raise invalid("stream_options", "'stream_options' is only allowed when 'stream' is true.")
    for name in ("include_obfuscation", "continuous_usage_stats"):
        if getattr(options, name):
            raise unsupported(f"stream_options.{name}")


def _check_stop(request: SamplingFields) -> None:
    stops = request.stops
    if len(stops) > MAX_STOPS:
        raise invalid("stop", f"'stop' may hold {MAX_STOPS} strings, not {len(stops)}.")
    for position, text in enumerate(stops):
        name = "stop" if isinstance(request.stop, str) else f"stop[{position}]"
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise invalid(name, f"'{name}' must have 1 to {MAX_STOP_LENGTH} characters, not {len(text)}.")
    if len(request.stop_token_ids or ()) > MAX_STOP_IDS:
        raise invalid("stop_token_ids", f"'stop_token_ids' may hold {MAX_STOP_IDS} ids.")


def _check_bias(request: SamplingFields) -> None:
    bias = request.logit_bias or {}
    if len(bias) > MAX_BIASES:
        raise invalid("logit_bias", f"'logit_bias' may hold {MAX_BIASES} tokens, not {len(bias)}.")
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise invalid("logit_bias", f"'logit_bias' maps token ids to numbers; '{key[:40]}' is not a token id.")
        if not -100 <= value <= 100:
            raise invalid("logit_bias", f"'logit_bias' for token {key} must be between -100 and 100, not {value}.")


def check_keep_alive(value: str | int | float | None) -> None:
    if isinstance(value, str):
        try:
            parse_duration(value)
        except ConfigError as error:
            raise ApiError(400, f"'keep_alive': {error.message}", param="keep_alive") from None
