"""A long chunk, as a text to embed is, is masked a stretch at a time and gives what it gives at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from daemon.engines.transformers import attention
from daemon.engines.transformers.attention import AttentionKind, PrefillChunk, Step, attend

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 24},
    "capped": {"softcap": 2.0},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0]), "window": 24},
}


@pytest.mark.parametrize("name", list(KINDS))
def test_masks_are_bounded_and_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = AttentionKind(0.3, **KINDS[name])
    maker = torch.Generator().manual_seed(0)
    lengths = [150, 3, 61]
    chunks = [PrefillChunk(0, sum(lengths[:i]), 0, 0, n) for i, n in enumerate(lengths)]
    q = torch.randn(sum(lengths), 4, 8, generator=maker)
    k, v = (torch.randn(sum(lengths), 2, 8, generator=maker) for _ in range(2))
    want = attend(Step([], chunks, None), 0, q, k, v, kind)
    areas: list[int] = []
    make = attention._chunk_mask

    def measured(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        mask = make(*args, **kwargs)
        areas.append(0 if mask is None else mask.numel())
        return mask

    monkeypatch.setattr(attention, "_chunk_mask", measured)
    monkeypatch.setattr(attention, "MASK_AREA", 4000)
    step = Step([], chunks, None)
    got = attend(step, 0, q, k, v, kind)
    assert torch.allclose(got, want, atol=1e-6)
    assert max(areas) <= 4000
    # What is kept for the other layers is bounded too: one mask for each of the two chunks that need no cutting.
    assert sum(mask.numel() for mask in step.masks.values() if mask is not None) <= 2 * 4000
