"""How a limit on GPU memory is shared between weights, KV cache and the rest: plain arithmetic, no GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from daemon.engines.transformers.placement import Placement, gpu_kv_bytes, left_in_memory, weights_limit

GIB = 1 << 30


def test_without_a_limit_the_cache_gets_a_share_of_what_is_free() -> None:
    assert weights_limit(0) == 0
    assert gpu_kv_bytes(0, 50 * GIB, 14 * GIB) == 40 * GIB


def test_a_limit_holds_for_weights_and_cache_together() -> None:
    limit = 8 * GIB
    weights = weights_limit(limit)
    assert 5 * GIB < weights < 7 * GIB
    cache = gpu_kv_bytes(limit, 70 * GIB, weights)
    assert cache > GIB // 2
    assert weights + cache + GIB * 3 // 2 <= limit
    assert gpu_kv_bytes(limit, 70 * GIB, 8 * GIB) == 0


@given(st.integers(0, 100 * GIB), st.integers(0, 100 * GIB), st.integers(0, 100 * GIB))
def test_the_cache_never_takes_more_than_is_free_or_allowed(limit: int, free: int, allocated: int) -> None:
    cache = gpu_kv_bytes(limit, free, allocated)
    assert 0 <= cache <= free
    assert not limit or not cache or cache + allocated < limit


@pytest.mark.parametrize(
    ("memory", "left"),
    [
        (None, 0),
        ({0: 6 * GIB, "cpu": 90 * GIB}, 8 * GIB),
        ({0: 6 * GIB, 1: 6 * GIB, "cpu": 90 * GIB}, 2 * GIB),
        ({0: 20 * GIB, "cpu": 0}, 0),
    ],
)
def test_what_does_not_fit_the_gpus_stays_in_main_memory(memory: dict[int | str, int] | None, left: int) -> None:
    arguments = {} if memory is None else {"device_map": "auto", "max_memory": memory}
    assert left_in_memory(14 * GIB, Placement(torch.device("cuda"), arguments)) == left
