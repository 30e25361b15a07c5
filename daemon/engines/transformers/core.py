"""The engine's step, run by its thread: plan, one forward, sample all rows, hand out deltas."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Protocol

import torch

from daemon.engines.base import Delta, EngineStats, FinishReason, TokenLogprob
from daemon.engines.transformers.ahead import AheadRunner, Flight, can_fly, followers
from daemon.engines.transformers.detokenizer import Detokenizer, DetokenizerFactory
from daemon.engines.transformers.masks import apply_masks
from daemon.engines.transformers.packed import wants_prompt_logprobs
from daemon.engines.transformers.rows import RowPool
from daemon.engines.transformers.sampling import RowParams, SamplingBatch, TokenCounts, logprobs_of
from daemon.engines.transformers.scheduler import Plan, Scheduler, Work
from daemon.engines.transformers.sequence import RequestState, Sequence
from fcd.errors import ApiError

Event = tuple[int, Delta | ApiError | None]
"""(request key, what happened): None says that every choice has ended."""
STALL = 0.25
"""Seconds that a prompt's chunk may hold up the rows that decode beside it."""
MIN_CHUNK = 64


class Runner(Protocol):
    """Computes logits for a plan."""

    def forward(self, plan: Plan) -> tuple[torch.Tensor, list[Work]]: ...

    def memory_bytes(self) -> int: ...


class EngineCore:
    """Everything that one engine thread owns. Not thread-safe: only that thread may call it, `stats` excepted.

    Args:
        clock: seconds, monotonic.
        ahead: the runner, where it can begin a step before the last one's tokens have been read.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        pool: RowPool,
        detokenizers: DetokenizerFactory,
        *,
        clock: Callable[[], float] = time.monotonic,
        model_bytes: int = 0,
        ahead: AheadRunner | None = None,
    ) -> None:
        self.scheduler = scheduler
        self._runner = runner
        self._pool = pool
        self._detokenizers = detokenizers
        self._clock = clock
        self._model_bytes = model_bytes
        self._requests: dict[int, RequestState] = {}
        self._events: list[Event] = []
        self._ahead = ahead
        self._flight: Flight | None = None
        self._batch: SamplingBatch | None = None
        self._batch_rows: list[Sequence] = []
        self._masked: list[int] = []
        self._steps: deque[tuple[float, int]] = deque(maxlen=256)
        self._ttft: deque[float] = deque(maxlen=64)
        self._prefill_rate = 0.0
        self._generated = 0
        self._prompted = 0

    def submit(self, state: RequestState) -> None:
        """Queue a request's sequences.

        Raises:
            ApiError: 429 when the queue is full.
        """
        self.scheduler.add(state.sequences)
        self._requests[state.key] = state
        self._prompted += len(state.request.prompt_ids)

    def cancel(self, key: int) -> None:
        """Forget a request and free what it holds."""
        state = self._requests.pop(key, None)
        if state is None:
            return
        for sequence in state.sequences:
            if sequence.finish_reason is None:
                self.scheduler.remove(sequence)

    def idle(self) -> bool:
        return self.scheduler.idle()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One step; gives what happened in it, in order."""
        flight, self._flight = self._flight, None
        if flight is not None:
            self._flight = self._follow(flight)
            self._advance_all(flight.land())
        if self._flight is None:
            plan = self.scheduler.plan()
            if plan.decode or plan.prefill:
                self._compute(plan)
        events, self._events = self._events, []
        return events

    def fail_all(self, error: ApiError) -> list[Event]:
        """End every request with an error, after a crash."""
        events: list[Event] = [(key, error) for key in self._requests]
        self._requests.clear()
        return events

    def stats(self) -> EngineStats:
        """A snapshot; safe to call from any thread."""
        steps = list(self._steps)
        recent = [s for s in steps if s[0] > self._clock() - 10.0]
        span = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
        ttft = sorted(self._ttft)
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_used=min(1.0, self._pool.used_bytes() / max(1, self._pool.budget)),
            tokens_per_second=sum(s[1] for s in recent[1:]) / span if span > 0 else 0.0,
            ttft_ms=ttft[len(ttft) // 2] * 1000.0 if ttft else 0.0,
            generated_tokens=self._generated,
            prompt_tokens=self._prompted,
            memory_bytes=self._model_bytes + self._runner.memory_bytes(),
        )

    def _compute(self, plan: Plan) -> None:
        started = self._clock()
        logits, owners = self._runner.forward(plan)
        for state in [w.sequence.owner for w in plan.prefill if w.sequence.owner.failure is not None]:
            self._events.append((state.key, state.failure))
            self.cancel(state.key)
        if logits.device.type == "mps":
            # Metal has no double precision, which drawing needs.
            logits = logits.cpu()
        if plan.prefill and not any(work.sequence.alone for work in plan.prefill):
            if logits.device.type == "cuda":
                # What was launched is not yet done, and the pace is that of the device.
                torch.cuda.current_stream(logits.device).synchronize()
            self._pace(sum(work.count for work in plan.prefill), self._clock() - started)
        logits, sequences = self._take_prompt_logprobs(logits, owners)
        logits, sequences = self._end_silent(logits, sequences)
        if not sequences:
            return
        if self._ahead is not None and not plan.prefill and all(can_fly(s) for s in sequences):
            positions = [len(s.ids) for s in sequences]
            self._flight = Flight.start(sequences, self._choose(logits, sequences, positions))
            return
        self._advance_all(list(zip(sequences, self._sample(logits, sequences), strict=True)))

    def _follow(self, flight: Flight) -> Flight | None:
        """Start the step behind one that is under way, if it can be known what it will be."""
        places = followers(flight, self.scheduler)
        if self._ahead is None or not places:
            return None
        sequences, tokens = flight.narrowed(places)
        logits = self._ahead.decode_ahead(sequences, tokens)
        if logits is None:
            return None
        return Flight.start(sequences, self._choose(logits, sequences, [len(s.ids) + 1 for s in sequences]))

    def _advance_all(self, pairs: list[tuple[Sequence, int]]) -> None:
        """Take one new token of each sequence."""
        if not pairs:
            return
        now = self._clock()
        for sequence, token in pairs:
            self._advance(sequence, token, now)
        self._generated += len(pairs)
        self._steps.append((now, len(pairs)))

    def _pace(self, tokens: int, seconds: float) -> None:
        """Keep the prompt tokens beside decoding rows to what this machine computes in STALL seconds."""
        rate = tokens / max(seconds, 1e-6)
        self._prefill_rate = rate if not self._prefill_rate else 0.7 * self._prefill_rate + 0.3 * rate
        wanted = max(MIN_CHUNK, int(self._prefill_rate * STALL))
        self.scheduler.chunk_beside = min(self.scheduler.chunk, wanted)

    def _choose(self, logits: torch.Tensor, sequences: list[Sequence], positions: list[int]) -> torch.Tensor:
        """Tokens of sequences that can fly, on the device of the logits."""
        return self._sampling(logits, sequences).choose(logits, positions)

    def _sampling(self, logits: torch.Tensor, sequences: list[Sequence]) -> SamplingBatch:
        batch = self._batch
        if batch is None or self._batch_rows != sequences:
            batch = SamplingBatch([_row_params(s) for s in sequences], logits.shape[-1], logits.device)
            self._batch, self._batch_rows = batch, sequences
            self._masked = [i for i, s in enumerate(sequences) if s.mask is not None]
        return batch

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
        batch = self._sampling(logits, sequences)
        wanted = [i for i, s in enumerate(sequences) if _ranks_choices(s)]
        # The processing below is in place, and log-probabilities are of the raw logits.
        raw = logits[wanted].float() if wanted else None
        if self._masked:
            apply_masks(logits, self._masked, [m for i in self._masked if (m := sequences[i].mask) is not None])
        counts: list[TokenCounts | None] = []
        if batch.penalised:
            counts = [s.penalties if _penalised(s) else None for s in sequences]
        tensor = batch.choose(logits, [len(s.ids) for s in sequences], counts, _banned(sequences))
        tokens: list[int] = tensor.tolist()
        if raw is not None:
            self._note_logprobs(raw, tensor[wanted], [sequences[i] for i in wanted])
        return tokens

    def _note_logprobs(self, raw: torch.Tensor, tokens: torch.Tensor, sequences: list[Sequence]) -> None:
        top = max(s.params.logprobs or 0 for s in sequences)
        chosen, ids, values = logprobs_of(raw, tokens, top)
        for i, (sequence, token) in enumerate(zip(sequences, tokens.tolist(), strict=True)):
            sequence.logprob_sum += chosen[i]
            if sequence.params.logprobs is not None:
                k = sequence.params.logprobs
                sequence.unsent_logprobs.append(
                    self._entry(sequence.detokenizer, token, chosen[i], ids[i][:k], values[i][:k])
                )

    def _entry(
        self, before: Detokenizer, token: int, logprob: float | None, ids: Seq[int], values: Seq[float]
    ) -> TokenLogprob:
        text = self._detokenizers.token_text
        top = tuple((i, text(i), v) for i, v in zip(ids, values, strict=True))
        return TokenLogprob(token, text(token), logprob, top, before.place(token))

    def _prompt_entry(
        self, owner: RequestState, token: int, logprob: float | None, ids: Seq[int], values: Seq[float]
    ) -> TokenLogprob:
        if owner.prompt_text is None:
            owner.prompt_text = self._detokenizers.make(skip_special_tokens=False)
        entry = self._entry(owner.prompt_text, token, logprob, ids, values)
        owner.prompt_text.feed(token)
        return entry

    def _take_prompt_logprobs(self, logits: torch.Tensor, owners: list[Work]) -> tuple[torch.Tensor, list[Sequence]]:
        """Turn the rows of prompt chunks into log-probabilities; leave one row for each sequence to sample from."""
        if not any(wants_prompt_logprobs(work) for work in owners):
            return logits, [work.sequence for work in owners]
        keep: list[int] = []
        sequences: list[Sequence] = []
        at = 0
        for work in owners:
            count = work.count if wants_prompt_logprobs(work) else 1
            if wants_prompt_logprobs(work):
                self._note_prompt(work, logits[at : at + count])
            at += count
            if work.last:
                keep.append(at - 1)
                sequences.append(work.sequence)
        return logits[keep], sequences

    def _end_silent(self, logits: torch.Tensor, sequences: list[Sequence]) -> tuple[torch.Tensor, list[Sequence]]:
        """End the sequences that asked for no token at all: only their prompt's log-probabilities were wanted."""
        if all(len(s.ids) < s.max_length for s in sequences):
            return logits, sequences
        going = [i for i, s in enumerate(sequences) if len(s.ids) < s.max_length]
        for sequence in sequences:
            if len(sequence.ids) >= sequence.max_length:
                self._end(sequence, "length")
        return logits[going], [sequences[i] for i in going]

    def _note_prompt(self, work: Work, logits: torch.Tensor) -> None:
        sequence = work.sequence
        owner = sequence.owner
        if owner.prompt_logprobs is None or work.start == 0:
            owner.prompt_text = None
            owner.prompt_logprobs = [self._prompt_entry(owner, sequence.ids[0], None, (), ())]
        following = sequence.ids[work.start + 1 : work.start + work.count + 1]
        if not following:
            return
        k = sequence.params.prompt_logprobs or 0
        tokens = torch.tensor(following, device=logits.device)
        chosen, ids, values = logprobs_of(logits[: len(following)], tokens, k)
        entries = (self._prompt_entry(owner, t, chosen[i], ids[i], values[i]) for i, t in enumerate(following))
        owner.prompt_logprobs.extend(entries)

    def _advance(self, sequence: Sequence, token: int, now: float) -> None:
        """Take one new token into a sequence, and send what it makes certain."""
        owner = sequence.owner
        if owner.first_token_at is None:
            owner.first_token_at = now
            self._ttft.append(now - owner.arrived)
        sequence.decoding = True
        sequence.ids.append(token)
        sequence.unsent_ids.append(token)
        if sequence.penalties is not None:
            sequence.penalties.add(token)
        if sequence.mask is not None and not sequence.mask.accept(token):
            sequence.stop_reason = sequence.mask.failure
            self._end(sequence, "abort")
            return
        if sequence.generated > sequence.params.min_tokens and token in sequence.stop_ids:
            own = token in sequence.params.stop_token_ids
            sequence.stop_reason = token if own else None
            shown = sequence.stops.feed(sequence.detokenizer.feed(token)) if sequence.params.include_stop else ""
            self._end(sequence, "stop", shown)
            return
        text = sequence.detokenizer.feed(token)
        if sequence.stops.stops:
            text = self._watch_stops(sequence, text)
            if sequence.stops.matched is not None:
                sequence.stop_reason = sequence.stops.matched
                self._end(sequence, "stop", text)
                return
        if sequence.mask is not None and sequence.mask.finished:
            self._end(sequence, "stop", text)
        elif len(sequence.ids) >= sequence.max_length:
            self._end(sequence, "length", text)
        elif text or sequence.unsent_logprobs:
            self._emit(sequence, text, None)

    @staticmethod
    def _watch_stops(sequence: Sequence, text: str) -> str:
        if sequence.generated <= sequence.params.min_tokens:
            return sequence.stops.flush() + text
        return sequence.stops.feed(text)

    def _end(self, sequence: Sequence, reason: FinishReason, text: str = "") -> None:
        if sequence.stops.matched is None:
            rest = sequence.detokenizer.finish()
            text += sequence.stops.feed(rest) + sequence.stops.flush() if rest else sequence.stops.flush()
            if sequence.stops.matched is not None:
                reason, sequence.stop_reason = "stop", sequence.stops.matched
        sequence.finish_reason = reason
        self.scheduler.remove(sequence)
        self._emit(sequence, text, reason)
        state = sequence.owner
        if all(s.finish_reason is not None for s in state.sequences):
            if state.selects:
                self._release_best(state)
            self._requests.pop(state.key, None)
            self._events.append((state.key, None))

    def _emit(self, sequence: Sequence, text: str, reason: FinishReason | None) -> None:
        delta = Delta(
            sequence.index,
            text,
            tuple(sequence.unsent_ids),
            tuple(sequence.unsent_logprobs),
            reason,
            sequence.stop_reason if reason is not None else None,
        )
        sequence.unsent_ids.clear()
        sequence.unsent_logprobs.clear()
        if sequence.owner.selects:
            sequence.owner.held.setdefault(sequence.index, []).append(delta)
        else:
            self._send(sequence.owner, delta)

    def _send(self, state: RequestState, delta: Delta) -> None:
        if not state.started:
            state.started = True
            prompt = state.prompt_logprobs
            delta = Delta(
                delta.index,
                delta.text,
                delta.token_ids,
                delta.logprobs,
                delta.finish_reason,
                delta.stop_reason,
                None if prompt is None else tuple(prompt),
                state.cached_tokens,
            )
        self._events.append((state.key, delta))

    def _release_best(self, state: RequestState) -> None:
        """Send the n choices with the highest mean log-probability, as choices 0 to n-1."""
        ranked = sorted(state.sequences, key=lambda s: -s.logprob_sum / max(1, s.generated))
        for place, sequence in enumerate(ranked[: state.request.n]):
            for d in state.held.get(sequence.index, ()):
                moved = Delta(place, d.text, d.token_ids, d.logprobs, d.finish_reason, d.stop_reason)
                self._send(state, moved)


def _row_params(sequence: Sequence) -> RowParams:
    p = sequence.params
    if _penalised(sequence) and sequence.penalties is None:
        prompt = sequence.encoder_ids if sequence.encoder_ids is not None else sequence.ids[: sequence.prompt_length]
        sequence.penalties = TokenCounts.of(prompt, sequence.ids[sequence.prompt_length :])
    return RowParams(
        p.temperature,
        p.top_k,
        p.top_p,
        p.min_p,
        p.repetition_penalty,
        p.presence_penalty,
        p.frequency_penalty,
        p.logit_bias,
        sequence.seed,
    )


def _penalised(sequence: Sequence) -> bool:
    p = sequence.params
    return p.repetition_penalty != 1.0 or p.presence_penalty != 0.0 or p.frequency_penalty != 0.0


def _ranks_choices(sequence: Sequence) -> bool:
    return sequence.params.logprobs is not None or sequence.owner.selects


def _banned(sequences: list[Sequence]) -> list[tuple[int, int]]:
    """Ids that would end a sequence before its min_tokens."""
    return [
        (row, token)
        for row, sequence in enumerate(sequences)
        if sequence.generated < sequence.params.min_tokens
        for token in sequence.stop_ids
    ]
