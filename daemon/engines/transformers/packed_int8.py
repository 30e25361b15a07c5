"""int8 x int8 products through FBGEMM's packed weights, for x86 CPUs.

Without VNNI instructions these kernels add pairs of products in 16 bits, so their inputs get 7 bits, on a grid that is
the row's own: each row is divided by its largest value first, and a row's result never depends on its company.

7 bits are enough for a row without outliers: the rounding error is about `largest / (63 * sqrt(12))`, under 3 % of the
row's root mean square while the largest value is under WIDE times that, and much of it averages out. A row beyond that
has what was rounded away multiplied in a second pass, as one more row of the same product, which makes it 13 bits.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from daemon.engines.transformers.kernels.scaling import row_scaler

WIDE = 6.0
"""Rows with a value this many times their root mean square get the second pass."""
_TOP = 63
_LEAST = 1e-30
_ZERO = 64


def int8_is_supported() -> bool:
    """Whether this machine's PyTorch has the kernels."""
    operators = ("linear_prepack", "linear_unpack", "linear_with_input_q_dq_qweight_dq_output_fp32")
    return "fbgemm" in torch.backends.quantized.supported_engines and all(
        hasattr(torch.ops.quantized, name) for name in operators
    )


def pack_int8(codes: torch.Tensor, scale: torch.Tensor) -> Any:
    """Pack int8 codes `[out, in]` and a scale for each output."""
    torch.backends.quantized.engine = "fbgemm"
    zeros = torch.zeros(codes.shape[0], dtype=torch.long)
    with warnings.catch_warnings():
        # A quantised tensor is the only thing that the packing takes; it lives as long as this call.
        warnings.simplefilter("ignore")
        whole = torch._make_per_channel_quantized_tensor(codes.contiguous(), scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(whole, None)


def unpack_int8(packed: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes and the scale."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = torch.ops.quantized.linear_unpack(packed)[0]
    return whole.int_repr(), whole.q_per_channel_scales().float()


def packed_int8_product(rows: torch.Tensor, packed: Any, *, exact: bool = False) -> torch.Tensor:
    """`rows [n, in]` times packed weights: `[n, out]` in fp32.

    Args:
        exact: every row gets the second pass.
    """
    x = rows.float()
    count, width = x.shape
    scaled, step, wide = _scaled(x)
    again: torch.Tensor | None = None
    if not exact:
        if not wide:
            return _product(scaled, packed).mul_(step)
        if len(wide) < count:
            again = torch.tensor(wide)
    both = x.new_empty(count + (count if again is None else len(again)), width)
    first, second = both[:count], both[count:]
    torch.round(scaled, out=first)
    scaled.sub_(first).mul_(2 * _TOP)
    if again is None:
        second.copy_(scaled)
    else:
        torch.index_select(scaled, 0, again, out=second)
    out = _product(both, packed)
    answer, rest = out[:count], out[count:]
    if again is None:
        answer.add_(rest, alpha=1 / (2 * _TOP))
    else:
        answer.index_add_(0, again, rest, alpha=1 / (2 * _TOP))
    return answer.mul_(step)


def _scaled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Each row's values from -63 to 63; what they were divided by; which rows have outliers."""
    bound = WIDE / x.shape[1] ** 0.5
    scaler = row_scaler()
    if scaler is not None and x.stride(1) == 1:
        return scaler(x, _TOP, _LEAST, bound)
    # PyTorch's infinity norm takes ten times as long.
    largest = x.abs().amax(1, keepdim=True)
    step = (largest / _TOP).clamp_min_(_LEAST)
    # Compared in Python, which for few rows is quicker, and the wrong way round, so that no number is wide as well.
    tops, norms = largest.view(-1).tolist(), torch.linalg.vector_norm(x, dim=1).tolist()
    wide = [row for row, (top, norm) in enumerate(zip(tops, norms, strict=True)) if not top <= bound * norm]
    return x / step, step, wide


def _product(scaled: torch.Tensor, packed: Any) -> torch.Tensor:
    """Of values from -63 to 63, rounded to whole numbers."""
    out: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(scaled, 1.0, _ZERO, packed)
    return out
