"""Keep rows of logits to what their grammars allow: all masked rows of a step at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from daemon.engines.base import TokenMask


def apply_masks(logits: torch.Tensor, rows: Sequence[int], masks: Sequence[TokenMask]) -> None:
    """Set what may not come next to minus infinity, in place; other rows stay as they are.

    Args:
        logits: `[rows, vocab]`.
        rows: the rows that have a mask, and `masks` theirs, all for one vocabulary.
    """
    vocab = masks[0].vocab_size
    bits = np.zeros((logits.shape[0], (vocab + 31) // 32), np.int32)
    # Where nothing may come next the row stays as it is: whatever is chosen, its mask will not accept it.
    narrowed = [row for row, mask in zip(rows, masks, strict=True) if mask.fill(bits, row) and bits[row].any()]
    if narrowed:
        narrow = narrow_in_memory if logits.device.type == "cpu" else narrow_on_device
        narrow(logits, torch.from_numpy(bits), narrowed, vocab)
    if vocab < logits.shape[-1]:
        # Columns of the output that belong to no token.
        logits[torch.tensor(list(rows), device=logits.device), vocab:] = -torch.inf


def narrow_in_memory(logits: torch.Tensor, bits: torch.Tensor, rows: list[int], vocab: int) -> None:
    """For logits in main memory; `bits` has a row for each of theirs."""
    from daemon.engines.structured.apply import mask_in_memory

    mask_in_memory(logits, bits, rows, vocab)


def narrow_on_device(logits: torch.Tensor, bits: torch.Tensor, rows: list[int], vocab: int) -> None:
    """For logits on any device: only bits cross to it, and are spread there."""
    index = torch.tensor(rows, device=logits.device)
    words = bits[rows].to(logits.device)
    shifts = torch.arange(32, device=logits.device, dtype=torch.int32)
    forbidden = ((words.unsqueeze(-1) >> shifts) & 1).eq(0).flatten(1)[:, :vocab]
    logits[index, :vocab] = logits[index, :vocab].masked_fill(forbidden, -torch.inf)
