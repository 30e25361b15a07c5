"""Masks in logits: the kernel for main memory and the one for devices against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.engines.transformers import masks


class Fixed:
    """A mask that always allows the same tokens; None allows all."""

    finished = False
    failure = ""

    def __init__(self, vocab_size: int, allowed: set[int] | None) -> None:
        self.vocab_size = vocab_size
        self.allowed = allowed

    def fill(self, bits: Any, row: int) -> bool:
        if self.allowed is None:
            return False
        flat = np.zeros(bits.shape[1] * 32, np.uint8)
        flat[list(self.allowed)] = 1
        bits[row] = np.packbits(flat, bitorder="little").view(np.int32)
        return True

    def accept(self, token_id: int) -> bool:
        return True


@pytest.mark.parametrize("narrow", [masks.narrow_in_memory, masks.narrow_on_device])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_only_what_is_allowed_is_left(narrow: Any, monkeypatch: pytest.MonkeyPatch, data: st.DataObject) -> None:
    monkeypatch.setattr(masks, "narrow_in_memory", narrow)
    # The library takes a single column of logits for a single row.
    vocab = data.draw(st.integers(2, 200))
    width = vocab + data.draw(st.integers(0, 40))
    count = data.draw(st.integers(1, 5))
    tokens = st.sets(st.integers(0, vocab - 1), min_size=1)
    wanted = data.draw(st.dictionaries(st.integers(0, count - 1), st.none() | tokens, min_size=1))
    logits = torch.randn(count, width, dtype=data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    expected = logits.clone()
    for row, allowed in wanted.items():
        keep = set(range(vocab)) if allowed is None else allowed
        expected[row, [i for i in range(width) if i not in keep]] = -torch.inf
    masks.apply_masks(logits, list(wanted), [Fixed(vocab, allowed) for allowed in wanted.values()])
    assert torch.equal(logits, expected)


def test_a_row_where_nothing_is_allowed_stays_as_it_is() -> None:
    logits = torch.zeros(2, 40)
    masks.apply_masks(logits, [0, 1], [Fixed(40, set()), Fixed(40, {3})])
    assert torch.isfinite(logits[0]).all()
    assert torch.isfinite(logits[1]).nonzero().flatten().tolist() == [3]
