"""FastChat's generation parameters: forgiving where its clients are careless, strict where a value means nothing."""

from __future__ import annotations

import math
import uuid
from typing import Any

import msgspec

from daemon.engines.base import GenerationRequest, ImagePrompt, SamplingParams
from daemon.worker.generation import allowed_tokens, check_writes
from daemon.worker.pictures import as_images, prompt_with_images
from daemon.worker.state import Worker
from fcd.errors import ApiError
from fcd.wire.openai_sampling import MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_IDS, MAX_STOP_LENGTH, MAX_STOPS

_GREEDY_TEMPERATURE = 1e-5
_GREEDY_TOP_P = 1e-8


class FastChatParams(msgspec.Struct, frozen=True):
    """What `/worker_generate_stream` understands, with null read as the default."""

    prompt: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_new_tokens: int = 256
    echo: bool = True
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    best_of: int = 1
    seed: int | None = None
    model: str | None = None
    images: tuple[str, ...] = ()
    """In base64, for the places that the prompt has for them."""


def read_params(body: dict[str, Any]) -> FastChatParams:
    """Read a request's body.

    Raises:
        ApiError: 400; FastChat's routes show it as an error frame.
    """
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise ApiError(400, "'prompt' must be a string.", param="prompt")
    if body.get("use_beam_search"):
        raise ApiError(400, "'use_beam_search' is not supported here.", param="use_beam_search")
    logprobs = body.get("logprobs")
    return FastChatParams(
        prompt=prompt,
        temperature=_number(body, "temperature", 1.0, 0, 100),
        top_p=_number(body, "top_p", 1.0, 0, 1),
        top_k=int(_number(body, "top_k", -1, -1, 2**31 - 1)),
        repetition_penalty=_number(body, "repetition_penalty", 1.0, 0, 100),
        presence_penalty=_number(body, "presence_penalty", 0.0, -2, 2),
        frequency_penalty=_number(body, "frequency_penalty", 0.0, -2, 2),
        max_new_tokens=int(_number(body, "max_new_tokens", 256, 1, 2**31 - 1)),
        echo=True if body.get("echo") is None else bool(body["echo"]),
        stop=_stops(body.get("stop")),
        stop_token_ids=_stop_ids(body.get("stop_token_ids")),
        logprobs=None if logprobs is None else int(_number(body, "logprobs", 0, 0, MAX_LOGPROBS)),
        best_of=int(_number(body, "best_of", 1, 1, MAX_CHOICES)),
        images=as_images(body.get("images")),
        model=body["model"] if isinstance(body.get("model"), str) else None,
        seed=None if body.get("seed") is None else int(_number(body, "seed", 0, -(2**63), 2**63 - 1)),
    )


async def generation_request(worker: Worker, params: FastChatParams) -> tuple[GenerationRequest, str]:
    """The engine's request, and the prompt's text as `echo` shows it. A long prompt is cut from the left."""
    model = worker.ready()
    info = model.engine.info
    check_writes(info)
    seen: ImagePrompt | None = None
    if params.images:
        seen = await prompt_with_images(model, params.model or worker.names[0], params.prompt, params.images)
        ids = seen.ids
    else:
        ids = await model.prompter.text_ids(params.prompt)
    if not ids:
        raise ApiError(400, "'prompt' has no tokens.", param="prompt")
    wanted = params.max_new_tokens
    if info.is_encoder_decoder:
        ids, wanted = ids[: info.context_length], min(wanted, info.context_length)
    elif seen is not None:
        # What stands for an image cannot be cut off it.
        wanted = allowed_tokens(info, len(ids), wanted, param="prompt", strict=False)
    else:
        room = info.context_length - wanted - 1
        if room < 1:
            # More was asked for than the context holds: half of it at least is left to the prompt.
            room = max(info.context_length // 2, 1)
        ids = ids[-room:]
        wanted = min(wanted, info.context_length - len(ids))
    greedy = params.temperature < _GREEDY_TEMPERATURE or params.top_p < _GREEDY_TOP_P
    echo_logprobs = params.logprobs if params.echo and not info.is_encoder_decoder else None
    sampling = SamplingParams(
        max_tokens=wanted,
        temperature=0.0 if greedy else params.temperature,
        top_p=1.0 if greedy else params.top_p,
        top_k=max(params.top_k, 0),
        repetition_penalty=max(params.repetition_penalty, 1.0),
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        seed=params.seed,
        stop=params.stop,
        stop_token_ids=tuple(token for token in params.stop_token_ids if token < info.vocab_size),
        logprobs=params.logprobs,
        prompt_logprobs=echo_logprobs,
    )
    adapter = worker.adapter(params.model)
    request_id = f"fastchat-{uuid.uuid4().hex}"
    return GenerationRequest(
        request_id, ids, sampling, best_of=params.best_of, adapter=adapter, images=seen
    ), params.prompt


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ApiError(400, f"'{name}' must be a number.", param=name)
    if not low <= value <= high:
        raise ApiError(400, f"'{name}' must be between {low} and {high}, not {value}.", param=name, code="out_of_range")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    """A string or a list of strings; empty ones, which FastChat's templates hold, ask for nothing."""
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, "Invalid stop field type.", param="stop", code="internal_error")
    kept = tuple(dict.fromkeys(stop for stop in stops if stop))
    if len(kept) > MAX_STOPS or any(len(stop) > MAX_STOP_LENGTH for stop in kept):
        raise ApiError(400, f"'stop' may hold {MAX_STOPS} strings of {MAX_STOP_LENGTH} characters.", param="stop")
    return kept


def _stop_ids(value: Any) -> tuple[int, ...]:
    ids = value or []
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise ApiError(400, "'stop_token_ids' must be a list of token ids.", param="stop_token_ids")
    if len(ids) > MAX_STOP_IDS:
        raise ApiError(400, f"'stop_token_ids' may hold {MAX_STOP_IDS} ids.", param="stop_token_ids")
    return tuple(ids)
