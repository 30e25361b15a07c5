"""Start the next decode step before the last one's tokens have been read, so that device and host work side by side.

The next step takes the tokens from device memory. By the time the host has read them, turned them into text and found
which sequences have ended, the device is busy with the step behind; what it computes for those that ended is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.scheduler import Scheduler
from daemon.engines.transformers.sequence import Sequence


class AheadRunner(Protocol):
    """A runner that can compute a step whose newest tokens only the device knows."""

    def decode_ahead(self, sequences: list[Sequence], tokens: torch.Tensor) -> torch.Tensor | None: ...


@dataclass(eq=False, slots=True)
class Flight:
    """A step whose tokens are on their way: row i of `tokens` is the next token of `sequences[i]`."""

    sequences: list[Sequence]
    tokens: torch.Tensor
    host: torch.Tensor
    event: torch.cuda.Event | None

    @classmethod
    def start(cls, sequences: list[Sequence], tokens: torch.Tensor) -> Flight:
        """Send the tokens to main memory without waiting for them."""
        if tokens.device.type != "cuda":
            return cls(sequences, tokens, tokens.clone(), None)
        host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
        host.copy_(tokens, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(tokens.device))
        return cls(sequences, tokens, host, event)

    def narrowed(self, places: list[int]) -> tuple[list[Sequence], torch.Tensor]:
        """The sequences at these places and their tokens, chosen without waiting for the device."""
        if len(places) == len(self.sequences):
            return self.sequences, self.tokens
        index = torch.tensor(places, pin_memory=self.event is not None)
        index = index.to(self.tokens.device, non_blocking=True)
        return [self.sequences[i] for i in places], self.tokens.index_select(0, index)

    def land(self) -> list[tuple[Sequence, int]]:
        """Wait for the tokens; those of sequences that have ended or were cancelled meanwhile are left out."""
        if self.event is not None:
            self.event.synchronize()
        pairs = zip(self.sequences, self.host.tolist(), strict=True)
        return [(sequence, token) for sequence, token in pairs if _alive(sequence)]


def can_fly(sequence: Sequence) -> bool:
    """Whether nothing that the host does with a token changes how the next one is chosen."""
    p = sequence.params
    return (
        sequence.mask is None
        and p.repetition_penalty == 1.0
        and p.presence_penalty == 0.0
        and p.frequency_penalty == 0.0
        and p.logprobs is None
        and not sequence.owner.selects
        and sequence.generated >= p.min_tokens
        and len(sequence.ids) < sequence.max_length
    )


def followers(flight: Flight, scheduler: Scheduler) -> list[int]:
    """The places in `flight` of the sequences that the step behind it computes; empty: plan anew first.

    That is when anything else waits to be computed, or a row has to move.
    """
    if scheduler.waiting and len(scheduler.running) < scheduler.max_running:
        return []
    places = [i for i, sequence in enumerate(flight.sequences) if _alive(sequence)]
    if len(places) != len(scheduler.running):
        return []
    # What reaches its limit with the token under way ends there.
    going = [i for i in places if len(flight.sequences[i].ids) + 1 < flight.sequences[i].max_length]
    return going if all(_has_room(flight.sequences[i], scheduler.pool) for i in going) else []


def _has_room(sequence: Sequence, pool: RowPool) -> bool:
    row = sequence.row
    return row is not None and len(sequence.ids) < pool.classes[row.size_class].capacity


def _alive(sequence: Sequence) -> bool:
    return sequence.row is not None and sequence.finish_reason is None
