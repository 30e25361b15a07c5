"""xgrammar's own kernel that writes masks into logits in main memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xgrammar.kernels.apply_token_bitmask_inplace_cpu import apply_token_bitmask_inplace_cpu


def mask_in_memory(logits: Any, bits: Any, rows: Sequence[int], vocab_size: int) -> None:
    """Set what `bits` forbids to minus infinity in the given rows of `logits`, in place.

    Args:
        logits: a tensor `[rows, vocab]` of float32, bfloat16 or float16 on the CPU.
        bits: an int32 tensor with a row for each row of the logits.
    """
    apply_token_bitmask_inplace_cpu(logits, bits, vocab_size, list(rows))
