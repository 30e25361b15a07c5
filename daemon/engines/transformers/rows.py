"""Who owns which row of the KV store: a pure allocator that answers with effects for the store to carry out.

A row is a contiguous stretch of tokens for one sequence. Rows come in size classes (capacities that double); all rows
of one class stand side by side in one slab, so that one attention call reads a whole batch without a gather. A finished
sequence's row stays as a cached prefix until its memory is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

MIN_CAPACITY = 128
OUTSIDE = -1
"""The slot of a row that is in no slab."""
MIN_CACHED = 16
"""A shorter prefix is computed again sooner than it is looked for."""


@dataclass(eq=False, slots=True)
class Row:
    """A sequence's place in the store. `ids` are the tokens that stand in it; the first `length` are computed."""

    size_class: int
    slot: int
    ids: list[int]
    length: int = 0
    state: Literal["running", "cached", "gone"] = "running"
    last_used: int = 0
    space: str = ""
    """The adapter that computed it: equal tokens of another have other keys and values."""


@dataclass(frozen=True, slots=True)
class Resize:
    """Give a slab this many rows; the rows below it keep their content, `tokens` at most."""

    size_class: int
    slots: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the first `tokens` tokens of one row over another."""

    from_class: int
    from_slot: int
    to_class: int
    to_slot: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Swap:
    """Exchange two rows of one slab, `tokens` tokens of each."""

    size_class: int
    slot_a: int
    slot_b: int
    tokens: int


Effect = Resize | Copy | Swap


@dataclass(slots=True)
class SizeClass:
    capacity: int
    slots: list[Row | None] = field(default_factory=list)


def capacities(context_length: int) -> list[int]:
    """Row sizes: powers of two from 128 up, the last one the context length itself."""
    sizes: list[int] = []
    size = MIN_CAPACITY
    while size < context_length:
        sizes.append(size)
        size *= 2
    return [*sizes, context_length]


def common_prefix(a: Sequence[int], b: Sequence[int], limit: int) -> int:
    """How many of the first `limit` items are equal, by bisection over slice comparisons (which run in C)."""
    limit = min(limit, len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit
    while low < high:
        middle = (low + high) // 2
        if a[low : middle + 1] == b[low : middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


class RowPool:
    """Rows within a budget of bytes.

    Args:
        context_length: the largest row, in tokens.
        bytes_per_token: over all layers, K and V.
        budget: bytes that all slabs together may take.
        max_cached: keep this many finished rows as cached prefixes; 0 keeps none.
        scattered: the store finds rows wherever they are: exchanging two costs nothing, and nothing is gained by
            bringing them together.
    """

    def __init__(
        self,
        context_length: int,
        bytes_per_token: int,
        budget: int,
        *,
        max_cached: int = 64,
        scattered: bool = False,
    ) -> None:
        self.scattered = scattered
        self.bytes_per_token = bytes_per_token
        self.budget = budget
        self.max_cached = max_cached
        largest = max(1, min(context_length, budget // bytes_per_token))
        self.classes = [SizeClass(capacity) for capacity in capacities(largest)]
        self.effects: list[Effect] = []
        self.reserved = 0
        self._clock = 0
        self._outside: list[Row] = []

    @property
    def max_tokens(self) -> int:
        """The longest sequence that can ever have a row."""
        return self.classes[-1].capacity

    def most_rows(self, size_class: int) -> int:
        """How many rows of a class the budget has room for."""
        return max(1, self.budget // self._row_bytes(size_class))

    def rows(self) -> list[Row]:
        return [row for size_class in self.classes for row in size_class.slots if row is not None]

    def used_bytes(self) -> int:
        """Bytes of the rows that running sequences hold."""
        running = [row for row in self.rows() if row.state == "running"]
        return sum(self._row_bytes(row.size_class) for row in (*running, *self._outside))

    def drain(self) -> list[Effect]:
        effects, self.effects = self.effects, []
        return effects

    def allocate(self, ids: list[int], tokens: int, space: str = "") -> Row | None:
        """A running row with room for `tokens`, or None when nothing more can be given up for it."""
        index = self._class_for(tokens)
        slot = None if index is None else self._find_slot(index)
        if index is None or slot is None:
            return None
        row = Row(index, slot, ids, last_used=self._tick(), space=space)
        self.classes[index].slots[slot] = row
        return row

    def outside(self, ids: list[int], tokens: int) -> Row | None:
        """A running row that its runner keeps somewhere else: it counts against the budget and has no slot."""
        index = self._class_for(tokens)
        if index is None or not self._free(self._row_bytes(index)):
            return None
        self.reserved += self._row_bytes(index)
        row = Row(index, OUTSIDE, ids, last_used=self._tick())
        self._outside.append(row)
        return row

    def ensure(self, row: Row, tokens: int) -> bool:
        """Make room for `tokens` in a running row, moving it to a larger class when it is full."""
        if tokens <= self.classes[row.size_class].capacity:
            return True
        if row.slot == OUTSIDE:
            return self._widen(row, tokens)
        index = self._class_for(tokens)
        slot = None if index is None else self._find_slot(index)
        if index is None or slot is None:
            return False
        if row.length:
            self.effects.append(Copy(row.size_class, row.slot, index, slot, row.length))
        self.classes[row.size_class].slots[row.slot] = None
        row.size_class, row.slot = index, slot
        self.classes[index].slots[slot] = row
        return True

    def release(self, row: Row, *, keep: bool = True) -> None:
        """End a running row: it becomes a cached prefix, or is free at once."""
        if row.slot == OUTSIDE:
            self._outside.remove(row)
            self.reserved -= self._row_bytes(row.size_class)
            row.state = "gone"
            return
        if not keep or not self.max_cached or row.length < MIN_CACHED:
            self._forget(row)
            return
        row.state = "cached"
        row.ids = row.ids[: row.length]
        row.last_used = self._tick()
        cached = [other for other in self.rows() if other.state == "cached"]
        if len(cached) > self.max_cached:
            self._forget(min(cached, key=lambda other: other.last_used))

    def match(self, ids: Sequence[int], limit: int, space: str = "") -> tuple[Row | None, int]:
        """The row of this space that shares the longest computed prefix with `ids` (at most `limit` tokens), and how
        long it is."""
        best, length = None, 0
        for row in self.rows():
            if row.length > length and row.space == space and row.ids[0] == ids[0]:
                shared = common_prefix(row.ids, ids, min(row.length, limit))
                if shared > length or (shared == length and best is not None and row.last_used > best.last_used):
                    best, length = row, shared
        return best, length

    def adopt(self, ids: list[int], tokens: int, source: Row, shared: int) -> Row | None:
        """A running row that begins with the first `shared` tokens of `source`.

        A cached row that is mostly this prefix is taken over in place; any other is copied.
        """
        if source.state == "cached" and shared * 4 >= source.length * 3:
            source.state, source.ids, source.length = "running", ids, shared
            source.last_used = self._tick()
            if self.ensure(source, tokens):
                return source
            self._forget(source)
            return None
        source.last_used = self._tick()
        held, source.state = source.state, "running"
        row = self.allocate(ids, tokens, source.space)
        source.state = held
        if row is not None:
            self.effects.append(Copy(source.size_class, source.slot, row.size_class, row.slot, shared))
            row.length = shared
        return row

    def compact(self) -> None:
        """Bring the running rows of a slab together where holes make up over a quarter of their span."""
        if self.scattered:
            return
        for index, size_class in enumerate(self.classes):
            running = [s for s, row in enumerate(size_class.slots) if row is not None and row.state == "running"]
            while running and (running[-1] - running[0] + 1 - len(running)) * 4 > running[-1] - running[0] + 1:
                taken = set(running)
                hole = next(slot for slot in range(running[0], running[-1]) if slot not in taken)
                self._exchange(index, running[-1], hole)
                running = sorted([*running[:-1], hole])

    def _exchange(self, index: int, slot: int, hole: int) -> None:
        slots = self.classes[index].slots
        row, other = slots[slot], slots[hole]
        assert row is not None
        if other is None and not self.scattered:
            self.effects.append(Copy(index, slot, index, hole, row.length))
        else:
            self.effects.append(Swap(index, slot, hole, max(row.length, other.length if other else 0)))
            if other is not None:
                other.slot = slot
        row.slot = hole
        slots[slot], slots[hole] = other, row

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _row_bytes(self, index: int) -> int:
        return self.classes[index].capacity * self.bytes_per_token

    def _class_for(self, tokens: int) -> int | None:
        return next((i for i, c in enumerate(self.classes) if c.capacity >= tokens), None)

    def _forget(self, row: Row) -> None:
        self.classes[row.size_class].slots[row.slot] = None
        row.state = "gone"

    def _find_slot(self, index: int) -> int | None:
        """A free slot of this class: one that is there, else a new one, else one won by giving up cached rows."""
        slots = self.classes[index].slots
        if None in slots:
            return slots.index(None)
        if not self._fits(index):
            self._reclaim(index)
            if None in slots:
                return slots.index(None)
        if not self._fits(index):
            return None
        room = (self.budget - self.reserved) // self._row_bytes(index)
        extra = 1 if self.scattered else max(1, min(room, len(slots), 64))
        slot = len(slots)
        self._resize(index, slot + extra)
        return slot

    def _widen(self, row: Row, tokens: int) -> bool:
        index = self._class_for(tokens)
        more = 0 if index is None else self._row_bytes(index) - self._row_bytes(row.size_class)
        if index is None or not self._free(more):
            return False
        self.reserved += more
        row.size_class = index
        return True

    def _free(self, wanted: int) -> bool:
        """Have so many bytes of the budget reserved by nothing: free slots go, then the oldest cached rows."""
        if self.reserved + wanted > self.budget:
            for index in range(len(self.classes)):
                self._trim(index)
        cached = sorted((r for r in self.rows() if r.state == "cached"), key=lambda r: r.last_used)
        while self.reserved + wanted > self.budget and cached:
            row = cached.pop(0)
            self._forget(row)
            self._trim(row.size_class)
        return self.reserved + wanted <= self.budget

    def _fits(self, index: int) -> bool:
        return self.reserved + self._row_bytes(index) <= self.budget

    def _reclaim(self, index: int) -> None:
        """Give up free slots of other classes, then the least recently used cached rows, until one more row fits."""
        for other in range(len(self.classes)):
            self._trim(other)
        cached = sorted((r for r in self.rows() if r.state == "cached"), key=lambda r: r.last_used)
        for row in cached:
            if self._fits(index):
                return
            self._forget(row)
            if row.size_class == index:
                return
            self._trim(row.size_class)

    def _trim(self, index: int) -> None:
        """Close the holes of a slab and shrink it to what is left."""
        slots = self.classes[index].slots
        before = len(slots)
        while slots:
            if slots[-1] is None:
                slots.pop()
                continue
            hole = next((s for s, row in enumerate(slots) if row is None), None)
            if hole is None:
                break
            self._exchange(index, len(slots) - 1, hole)
        if len(slots) != before:
            self.effects.append(Resize(index, len(slots), self._longest(index)))
            self.reserved -= (before - len(slots)) * self._row_bytes(index)

    def _resize(self, index: int, count: int) -> None:
        slots = self.classes[index].slots
        self.reserved += (count - len(slots)) * self._row_bytes(index)
        slots.extend([None] * (count - len(slots)))
        self.effects.append(Resize(index, count, self._longest(index)))

    def _longest(self, index: int) -> int:
        return max((row.length for row in self.classes[index].slots if row is not None), default=0)
