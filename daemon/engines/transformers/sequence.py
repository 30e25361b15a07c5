"""One completion under way, and the request that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daemon.engines.base import Delta, FinishReason, GenerationRequest, SamplingParams, TokenLogprob, TokenMask
from daemon.engines.transformers.detokenizer import Detokenizer
from daemon.engines.transformers.rows import Row
from daemon.engines.transformers.stops import StopStrings
from fcd.errors import ApiError


@dataclass(eq=False, slots=True)
class RequestState:
    """A request and what its choices share."""

    request: GenerationRequest
    key: int
    """The engine's own name for it: request ids come from outside and need not be unique."""
    arrived: float
    sequences: list[Sequence] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] | None = None
    prompt_text: Detokenizer | None = None
    """Where the next of `prompt_logprobs` stands."""
    started: bool = False
    """The first delta has been sent."""
    first_token_at: float | None = None
    cached_tokens: int = 0
    failure: ApiError | None = None
    """Why its prompt cannot be computed, where that is no fault of the engine's."""
    held: dict[int, list[Delta]] = field(default_factory=dict)
    """With best_of over n: the deltas of every choice until all have ended."""

    @property
    def selects(self) -> bool:
        return self.request.best_of > self.request.n


@dataclass(eq=False, slots=True)
class Sequence:
    """`ids` are the tokens of the model's context so far, prompt first; the first `computed` are in the KV store."""

    owner: RequestState
    index: int
    ids: list[int]
    prompt_length: int
    max_length: int
    """Prompt and completion together may not grow beyond this."""
    seed: int
    detokenizer: Detokenizer
    stops: StopStrings
    stop_ids: frozenset[int]
    """The ids that end it: the model's own, unless they are ignored, and the request's."""
    encoder_ids: list[int] | None = None
    encoder: Any = None
    """With images: what the runner keeps for it between steps."""
    row: Row | None = None
    leader: Sequence | None = None
    """A sequence whose prefill this one waits for, to begin from a copy of it."""
    decoding: bool = False
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    unsent_ids: list[int] = field(default_factory=list)
    unsent_logprobs: list[TokenLogprob] = field(default_factory=list)
    logprob_sum: float = 0.0
    penalties: Any = None
    """The sampler's counts of tokens, when a penalty asks for them."""
    mask: TokenMask | None = None
    """What its grammar allows next, when it has one."""

    @property
    def params(self) -> SamplingParams:
        return self.owner.request.params

    @property
    def adapter(self) -> str:
        """The adapter that computes it; empty for the model as it is."""
        return self.owner.request.adapter

    @property
    def alone(self) -> bool:
        """It has images: it is computed by itself, and its keys and values are not in the store."""
        return self.owner.request.images is not None

    @property
    def computed(self) -> int:
        return self.row.length if self.row is not None else 0

    @property
    def generated(self) -> int:
        return len(self.ids) - self.prompt_length
