"""The row allocator against a model of what must stand in every row, with the real store carrying out its effects."""

from __future__ import annotations

import psutil
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from daemon.engines.transformers.address_space import grows_in_place
from daemon.engines.transformers.kv_store import KvStore, LayerSpec
from daemon.engines.transformers.rows import Row, RowPool, capacities, common_prefix

CONTEXT = 700
PER_TOKEN = 2 * (1 + 1) * 4


class Rows(RuleBasedStateMachine):
    """Every row's K and V hold its token ids, so a wrong copy, swap or slot shows at once."""

    rows = Bundle("rows")
    in_place = True

    def __init__(self) -> None:
        super().__init__()
        layer = LayerSpec(1, 1, 1, torch.float32, torch.device("cpu"))
        self.pool = RowPool(CONTEXT, PER_TOKEN, PER_TOKEN * 2600, max_cached=4)
        self.store = KvStore([layer, layer], self.pool, in_place=self.in_place)
        self.running: list[Row] = []

    def write(self, row: Row, start: int, end: int) -> None:
        self.store.apply(self.pool.drain())
        ids = torch.tensor(row.ids[start:end], dtype=torch.float32)[None, :, None]
        for slabs in (self.store.keys, self.store.values):
            for tensor in slabs[row.size_class]:
                tensor[row.slot, :, start:end] = ids
        row.length = end

    @rule(target=rows, ids=st.lists(st.integers(0, 1), min_size=1, max_size=3), more=st.integers(0, 400))
    def start(self, ids: list[int], more: int) -> object:
        prompt = [*ids, *[sum(ids) + 2] * more]
        source, shared = self.pool.match(prompt, len(prompt) - 1)
        row = None
        if source is not None and shared:
            row = self.pool.adopt(prompt, len(prompt) + 10, source, shared)
        if row is None:
            row = self.pool.allocate(prompt, len(prompt) + 10)
        if row is None:
            return multiple()
        self.running.append(row)
        self.write(row, row.length, len(prompt))
        return row

    @rule(row=rows, count=st.integers(1, 150))
    def grow(self, row: Row, count: int) -> None:
        if row not in self.running or len(row.ids) + count > CONTEXT:
            return
        if self.pool.ensure(row, len(row.ids) + count):
            row.ids.extend([9] * count)
            self.write(row, row.length, len(row.ids))

    @rule(row=consumes(rows), keep=st.booleans())
    def finish(self, row: Row, keep: bool) -> None:
        if row in self.running:
            self.running.remove(row)
            self.pool.release(row, keep=keep)

    @rule()
    def compact(self) -> None:
        self.pool.compact()

    @invariant()
    def rows_hold_their_tokens(self) -> None:
        self.store.apply(self.pool.drain())
        for row in self.pool.rows():
            want = torch.tensor(row.ids[: row.length], dtype=torch.float32)
            for slabs in (self.store.keys, self.store.values):
                for tensor in slabs[row.size_class]:
                    assert torch.equal(tensor[row.slot, 0, : row.length, 0], want)

    @invariant()
    def memory_is_bounded_and_counted(self) -> None:
        self.store.apply(self.pool.drain())
        assert self.pool.reserved <= self.pool.budget
        assert self.store.allocated_bytes() == self.pool.reserved
        assert self.pool.used_bytes() <= self.pool.reserved
        assert sum(r.state == "running" for r in self.pool.rows()) == len(self.running)
        assert sum(r.state == "cached" for r in self.pool.rows()) <= 4


TestRows = Rows.TestCase
TestRows.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class RowsThatAreCopied(Rows):
    in_place = False


TestRowsThatAreCopied = RowsThatAreCopied.TestCase
TestRowsThatAreCopied.settings = TestRows.settings


@pytest.mark.skipif(not grows_in_place(torch.device("cpu")), reason="address space is memory here")
def test_a_slab_grows_in_place_and_its_memory_goes_back() -> None:
    layer = LayerSpec(4, 64, 64, torch.float32, torch.device("cpu"))
    pool = RowPool(1024, layer.bytes_per_token, layer.bytes_per_token * 1024 * 1000)
    store = KvStore([layer], pool)
    before = psutil.Process().memory_info().rss
    rows = []
    for n in range(40):
        row = pool.allocate([n], 1024)
        assert row is not None
        row.length = 1024
        store.apply(pool.drain())
        rows.append(row)
        last = len(pool.classes) - 1
        if n == 0:
            at = store.keys[last][0].data_ptr()
        store.keys[last][0][row.slot] = n + 1.0
    assert store.keys[last][0].data_ptr() == at
    assert psutil.Process().memory_info().rss - before > 30 << 20
    for row in rows[1:]:
        pool.release(row, keep=False)
    pool._trim(last)
    store.apply(pool.drain())
    assert store.keys[last][0].shape[0] == 1
    assert bool((store.keys[last][0] == 1.0).all())
    assert psutil.Process().memory_info().rss - before < 8 << 20
    assert pool.allocate([5], 1024) is not None
    store.apply(pool.drain())
    assert not store.keys[last][0][1].any()


def test_capacities_end_in_the_context_length() -> None:
    assert capacities(1000) == [128, 256, 512, 1000]
    assert capacities(100) == [100]
    assert capacities(128) == [128]


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3, 4], [1, 2, 9, 4], 4) == 2
    assert common_prefix([1, 2, 3], [1, 2, 3, 4], 10) == 3
    assert common_prefix([1, 2, 3], [1, 2, 3, 4], 2) == 2
    assert common_prefix([], [1], 5) == 0


def test_a_budget_smaller_than_the_context_bounds_the_longest_row() -> None:
    pool = RowPool(100_000, 8, 8 * 1000)
    assert pool.max_tokens == 1000
    assert pool.allocate([1], 1001) is None


def test_cached_rows_give_way_to_running_ones() -> None:
    pool = RowPool(256, 1, 512)
    for n in range(6):
        row = pool.allocate([n] * 200, 200)
        assert row is not None
        row.length = 200
        pool.release(row)
    assert len(pool.rows()) == 2
    assert pool.match([5] * 200, 200)[1] == 200


def test_rows_that_are_kept_elsewhere_count_against_the_budget() -> None:
    pool = RowPool(512, 1, 1000)
    cached = pool.allocate(list(range(200)), 200)
    assert cached is not None
    cached.length = 200
    pool.release(cached)
    assert pool.reserved == 256
    far = pool.outside([1, 2, 3], 500)
    assert far is not None
    assert (pool.reserved, pool.used_bytes()) == (768, 512)
    # The cached row is given up for another, and no more fits.
    other = pool.outside([1], 300)
    assert other is None
    near = pool.outside([1], 250)
    assert near is not None
    assert pool.reserved <= 1000
    assert pool.ensure(near, 256)
    assert not pool.ensure(near, 257)
    assert pool.allocate([1], 300) is None
    pool.release(far)
    assert pool.ensure(near, 257)
    assert pool.match([1, 2, 3], 3) == (None, 0)
    pool.release(near)
    assert pool.used_bytes() == 0
    assert pool.allocate([1], 300) is not None
