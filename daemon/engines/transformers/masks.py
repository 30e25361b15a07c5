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
    bits = np.zeros((len(masks), (vocab + 31) // 32), np.int32)
    # Where nothing may come next the row stays as it is: whatever is chosen, its mask will not accept it.
    narrowed = [place for place, mask in enumerate(masks) if mask.fill(bits, place) and bits[place].any()]
    if narrowed:
        forbidden = _forbidden(bits[narrowed], logits.device)[:, :vocab]
        chosen = [rows[place] for place in narrowed]
        if len(chosen) == logits.shape[0]:
            logits[:, :vocab].masked_fill_(forbidden, -torch.inf)
        else:
            index = torch.tensor(chosen, device=logits.device)
            logits[index, :vocab] = logits[index, :vocab].masked_fill(forbidden, -torch.inf)
    if vocab < logits.shape[-1]:
        # Rows of the output that belong to no token.
        logits[torch.tensor(list(rows), device=logits.device), vocab:] = -torch.inf


def _forbidden(bits: np.ndarray[tuple[int, int], np.dtype[np.int32]], device: torch.device) -> torch.Tensor:
    """`[rows, 32 * words]` booleans, true where a bit is 0; spread on the device, so that only bits cross to it."""
    if device.type == "cpu":
        spread = np.unpackbits(~np.ascontiguousarray(bits).view(np.uint8), axis=1, bitorder="little")
        return torch.from_numpy(spread).view(torch.bool)
    shifts = torch.arange(32, device=device, dtype=torch.int32)
    words = torch.from_numpy(bits).to(device)
    return ((words.unsqueeze(-1) >> shifts) & 1).eq(0).flatten(1)
