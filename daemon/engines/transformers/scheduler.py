"""Which sequences take part in the next step: first come first served, within the KV budget. Pure; no clock, no I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from daemon.engines.transformers.rows import MIN_CACHED, RowPool
from daemon.engines.transformers.sequence import Sequence
from fcd.errors import ApiError

ROOM_AHEAD = 256
"""A row is chosen with room for up to this many tokens of the answer, so that most never move."""


@dataclass(slots=True)
class Work:
    """`count` tokens of a sequence from position `start`; `last` when they end with its newest token."""

    sequence: Sequence
    start: int
    count: int
    last: bool


@dataclass(slots=True)
class Plan:
    decode: list[Work] = field(default_factory=list)
    """One token each, ordered by (size class, slot)."""
    prefill: list[Work] = field(default_factory=list)


class Scheduler:
    """The waiting queue and the running set.

    Args:
        pool: rows to admit into.
        max_running: sequences that run at once.
        max_waiting: sequences that may wait; more are refused with 429.
        chunk: prompt tokens computed in one step beside the decoding rows; 0 computes every prompt whole, for a
            runner that cannot continue one that was begun in an earlier step.
        chunk_area: bound on (chunk length x context behind it), which is what a chunk's mask costs.
    """

    def __init__(
        self, pool: RowPool, *, max_running: int, max_waiting: int, chunk: int = 512, chunk_area: int = 1 << 24
    ) -> None:
        self.pool = pool
        self.max_running = max_running
        self.max_waiting = max_waiting
        self.chunk = chunk
        self.chunk_beside = chunk
        """The same while rows decode, which wait for it: the engine lowers it on a slow machine."""
        self.chunk_area = chunk_area
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    def add(self, sequences: list[Sequence]) -> None:
        """Queue a request's sequences.

        Raises:
            ApiError: 429 when the queue has no room for them.
        """
        if len(self.waiting) + len(sequences) > self.max_waiting + max(0, self.max_running - len(self.running)):
            raise ApiError(
                429,
                f"{len(self.waiting)} completions are waiting already; try again in a moment.",
                code="overloaded",
                retry_after=1,
            )
        self.waiting.extend(sequences)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Take a finished or cancelled sequence out and free its row; `keep` leaves the row as a cached prefix."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence.row is not None:
            self.pool.release(sequence.row, keep=keep)
            sequence.row = sequence.encoder = None

    def idle(self) -> bool:
        return not self.running and not self.waiting

    def plan(self) -> Plan:
        """Admit, make room, and choose the tokens of the next step."""
        plan = Plan()
        self._make_room()
        self._admit()
        self.pool.compact()
        budget = self.chunk_beside if any(sequence.decoding for sequence in self.running) else self.chunk
        for sequence in self.running:
            assert sequence.row is not None
            start, total = sequence.row.length, len(sequence.ids)
            if total - start == 1:
                plan.decode.append(Work(sequence, start, 1, True))
            elif sequence.alone:
                # Whole, and one in a step: whoever waits, or leaves, waits for no more than this.
                if not any(work.sequence.alone for work in plan.prefill):
                    plan.prefill.append(Work(sequence, start, total - start, True))
            elif budget > 0 or not self.chunk:
                count = total - start
                if self.chunk:
                    count = min(count, budget, max(16, self.chunk_area // total))
                    budget -= count
                plan.prefill.append(Work(sequence, start, count, start + count == total))
        plan.decode.sort(key=_place)
        return plan

    def _make_room(self) -> None:
        """Every running row gets room for its next token; the youngest give theirs up when memory is short."""
        for sequence in list(self.running):
            if sequence.row is None:
                continue
            # One that is alone and still lacks room gives up its own row, and begins again in a larger one.
            while sequence.row is not None and not self.pool.ensure(sequence.row, len(sequence.ids)):
                self._preempt(self.running[-1])

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue; its tokens stay, its prefix is computed again (or found) later."""
        assert sequence.row is not None
        self.running.remove(sequence)
        self.pool.release(sequence.row)
        sequence.row = sequence.encoder = None
        sequence.decoding = False
        sequence.leader = None
        self.waiting.appendleft(sequence)

    def _admit(self) -> None:
        passed: list[Sequence] = []
        while self.waiting and len(self.running) < self.max_running:
            sequence = self.waiting[0]
            if self._waits_for_leader(sequence):
                passed.append(self.waiting.popleft())
                continue
            if not self._place_in_pool(sequence):
                break
            self.waiting.popleft()
            self.running.append(sequence)
        self.waiting.extendleft(reversed(passed))

    def _waits_for_leader(self, sequence: Sequence) -> bool:
        leader = sequence.leader
        if leader is None:
            leader = sequence.leader = self._find_leader(sequence)
        if leader is None:
            return False
        if leader.row is not None and not leader.decoding:
            return True
        # A sibling that is still waiting itself will be admitted before this one.
        if leader.row is None and leader.finish_reason is None and leader in self.waiting:
            return True
        sequence.leader = None
        return False

    def _find_leader(self, sequence: Sequence) -> Sequence | None:
        """A sequence whose running prefill will hold a good part of this prompt: cheaper to wait for than to repeat."""
        if not self.pool.max_cached or sequence.encoder_ids is not None or sequence.alone:
            return None
        if sequence.owner.request.params.prompt_logprobs is not None:
            return None
        head = sequence.ids[: max(MIN_CACHED * 2, len(sequence.ids) // 2)]
        for other in self.running:
            unfinished = other.row is not None and not other.decoding and other.row.length < len(head)
            if unfinished and not other.alone and other.adapter == sequence.adapter and other.ids[: len(head)] == head:
                return other
        return None

    def _place_in_pool(self, sequence: Sequence) -> bool:
        # An encoder-decoder model keeps as much for each prompt token as for each token of the answer.
        prompt = len(sequence.encoder_ids or ())
        tokens = max(prompt, min(sequence.max_length, len(sequence.ids) + ROOM_AHEAD, self.pool.max_tokens))
        if sequence.alone:
            sequence.row = self.pool.outside(sequence.ids, tokens)
            if sequence.row is None and tokens > len(sequence.ids) + 1:
                sequence.row = self.pool.outside(sequence.ids, len(sequence.ids) + 1)
            return sequence.row is not None
        source, shared = None, 0
        if (
            self.pool.max_cached
            and sequence.encoder_ids is None
            and (sequence.owner.request.params.prompt_logprobs is None or sequence.index > 0)
        ):
            source, shared = self.pool.match(sequence.ids, len(sequence.ids) - 1, sequence.adapter)
        if source is not None and shared >= min(MIN_CACHED, len(sequence.ids) - 1):
            sequence.row = self.pool.adopt(sequence.ids, tokens, source, shared)
        if sequence.row is None:
            sequence.row = self.pool.allocate(sequence.ids, tokens, sequence.adapter)
        if sequence.row is None and tokens > max(prompt, len(sequence.ids) + 1):
            sequence.row = self.pool.allocate(sequence.ids, max(prompt, len(sequence.ids) + 1), sequence.adapter)
        if sequence.row is not None and sequence.generated == 0 and sequence.index == 0:
            sequence.owner.cached_tokens = sequence.row.length
        return sequence.row is not None


def _place(work: Work) -> tuple[int, int]:
    row = work.sequence.row
    assert row is not None
    return row.size_class, row.slot
