"""Attention straight over the rows of an `ArenaStore`: PyTorch's variable-length FlashAttention, no copies, no masks.

The kernel takes where each row's keys begin (`cum_seq_k`, of which it uses the beginnings only once `seqused_k` gives
the lengths), so rows may lie anywhere. Decoding rows and chunks of prompts are one call, and because every number that
changes is in device memory, a CUDA graph can hold the call.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from daemon.engines.transformers.arena import ArenaStore
from daemon.engines.transformers.kv_store import LayerSpec

log = logging.getLogger("fcd.engine")
_DTYPES = frozenset({torch.float16, torch.bfloat16})
_MAX_DIM = 256


@dataclass(frozen=True, slots=True)
class Stretch:
    """`count` new tokens of one row from position `position`; the row's first token is at place `base` of the store."""

    base: int
    position: int
    count: int


@dataclass(frozen=True, slots=True)
class RowTensors:
    """On one device, int32 unless said: `targets` int64 `[N]`, `offsets` and `starts` `[rows + 1]`, `used` `[rows]`."""

    targets: torch.Tensor
    offsets: torch.Tensor
    starts: torch.Tensor
    used: torch.Tensor


@dataclass(eq=False, slots=True)
class FlashBatch:
    """One packed batch as the kernel wants it.

    Args:
        most_new: the most new tokens of one row; most_kept: the most that any row attends over (a bound will do).
    """

    targets: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    used: npt.NDArray[np.int32]
    most_new: int
    most_kept: int
    places: dict[torch.device, RowTensors] = field(default_factory=dict)

    def on(self, device: torch.device) -> RowTensors:
        """The tensors on a layer's device."""
        found = self.places.get(device)
        if found is None:
            arrays = (self.targets, self.offsets, self.starts, self.used)
            found = self.places[device] = RowTensors(*(torch.from_numpy(a).to(device) for a in arrays))
        return found


def describe(stretches: Sequence[Stretch]) -> FlashBatch:
    """The arrays of a step whose packed tokens are these stretches, in this order."""
    base = np.array([s.base for s in stretches], np.int64)
    position = np.array([s.position for s in stretches], np.int64)
    count = np.array([s.count for s in stretches], np.int64)
    offsets = np.zeros(len(stretches) + 1, np.int32)
    np.cumsum(count, out=offsets[1:])
    inside = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1].astype(np.int64), count)
    starts = np.zeros(len(stretches) + 1, np.int32)
    starts[:-1] = base
    used = position + count
    return FlashBatch(
        np.repeat(base + position, count) + inside,
        offsets,
        starts,
        used.astype(np.int32),
        int(count.max()),
        int(used.max()),
    )


def varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: RowTensors,
    most_new: int,
    most_kept: int,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    """Causal attention of each row's new tokens, which are the last of what it attends over.

    Args:
        q: `[N, heads, dim]`; k and v `[places, kv_heads, dim]`.
    """
    # Aligned at the end: with one new token per row nothing is hidden.
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        q,
        k,
        v,
        rows.offsets,
        rows.starts,
        most_new,
        most_kept,
        0.0,
        True,
        False,
        scale=scale,
        window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
        seqused_k=rows.used,
    )[0]
    return out


def flash_attend(
    store: ArenaStore, batch: FlashBatch, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: Any
) -> torch.Tensor:
    """Write K and V to the store and attend: `[N, heads, dim]` in, the same out."""
    keys, values = store.keys[layer], store.values[layer]
    rows = batch.on(keys.device)
    keys.index_copy_(0, rows.targets, k)
    values.index_copy_(0, rows.targets, v)
    window = None if kind.window is None or kind.window >= batch.most_kept else kind.window
    return varlen(q, keys, values, rows, batch.most_new, batch.most_kept, kind.scale, window)


def flash_fits(layers: Sequence[LayerSpec], kinds: Sequence[Any]) -> bool:
    """Whether the kernel can serve every layer: half precision, head sizes it knows, no soft cap, no sinks."""
    return all(
        layer.dtype in _DTYPES
        and layer.key_dim == layer.value_dim
        and layer.key_dim % 8 == 0
        and layer.key_dim <= _MAX_DIM
        and kind.softcap is None
        and kind.sinks is None
        for layer, kind in zip(layers, kinds, strict=True)
    )


def flash_usable(layers: Sequence[LayerSpec], kinds: Sequence[Any], heads: int) -> bool:
    """Whether this machine's PyTorch has the kernel, and it gives what plain attention gives on rows that lie apart."""
    if any(layer.device.type != "cuda" for layer in layers) or not flash_fits(layers, kinds):
        return False
    layer, window = layers[0], next((kind.window for kind in kinds if kind.window is not None), None)
    try:
        return all(_agrees(layer, heads, w) for w in ({None, min(window, 9)} if window else {None}))
    except (RuntimeError, TypeError, AttributeError) as error:
        log.warning("attention over rows in place is not possible here (%s); rows are gathered instead", error)
        return False


@torch.inference_mode()
def _agrees(layer: LayerSpec, heads: int, window: int | None) -> bool:
    maker = torch.Generator(device=layer.device).manual_seed(0)
    shape = (96, layer.heads, layer.key_dim)
    k, v = (torch.randn(shape, generator=maker, dtype=layer.dtype, device=layer.device) for _ in range(2))
    for stretches in (
        [Stretch(40, 20, 1), Stretch(3, 6, 1)],
        [Stretch(40, 20, 1), Stretch(3, 6, 7), Stretch(70, 0, 5)],
    ):
        batch = describe(stretches)
        tokens = int(batch.offsets[-1])
        q = torch.randn((tokens, heads, layer.key_dim), generator=maker, dtype=layer.dtype, device=layer.device)
        scale = layer.key_dim**-0.5
        # A larger bound than the rows need, as a graph has.
        got = varlen(q, k, v, batch.on(layer.device), batch.most_new, 4096, scale, window)
        want = plain_varlen(q, k, v, batch.on(layer.device), scale, window)
        if not bool((got.float() - want.float()).abs().max() < 0.05):
            return False
    return True


def plain_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: RowTensors, scale: float, window: int | None
) -> torch.Tensor:
    """What `varlen` computes, row by row in fp32, by definition: slow, on any device."""
    group = q.shape[1] // k.shape[1]
    outputs = []
    offsets, starts, used = rows.offsets.tolist(), rows.starts.tolist(), rows.used.tolist()
    for i, kept in enumerate(used):
        queries = q[offsets[i] : offsets[i + 1]].float()
        keys = k[starts[i] : starts[i] + kept].float().repeat_interleave(group, 1)
        values = v[starts[i] : starts[i] + kept].float().repeat_interleave(group, 1)
        at = torch.arange(kept - queries.shape[0], kept, device=q.device)[:, None]
        columns = torch.arange(kept, device=q.device)
        hidden = columns > at
        if window is not None:
            hidden |= columns <= at - window
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), -1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs).to(q.dtype)
