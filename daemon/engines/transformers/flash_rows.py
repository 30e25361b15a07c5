"""Attention straight over the rows of an `ArenaStore`: PyTorch's variable-length FlashAttention, no copies, no masks.

The kernel takes where each row's keys begin (`cum_seq_k`, of which it uses the beginnings only once `seqused_k` gives
the lengths), so rows may lie anywhere. Decoding rows and chunks of prompts are one call, and because every number that
changes is in device memory, a CUDA graph can hold the call.

A sliding window is no matter for the kernel either: a row with one new token begins where its window does, and chunks
of prompts in a window go through SDPA one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

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

    def within(self, window: int) -> RowTensors:
        """The same rows, each with one new token, as that token sees them through a sliding window."""
        beyond = (self.used - window).clamp_(min=0)
        starts = self.starts.clone()
        starts[:-1] += beyond
        return RowTensors(self.targets, self.offsets, starts, self.used - beyond)

    def first(self, count: int) -> RowTensors:
        """The first rows, each with one new token."""
        return RowTensors(self.targets[:count], self.offsets[: count + 1], self.starts[: count + 1], self.used[:count])


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
    singles: int = 0
    """So many of the first rows have one new token."""
    chunks: tuple[Stretch, ...] = ()
    """The rows behind them."""
    places: dict[torch.device, RowTensors] = field(default_factory=dict)
    windows: dict[tuple[torch.device, int], RowTensors] = field(default_factory=dict)
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def on(self, device: torch.device) -> RowTensors:
        """The tensors on a layer's device."""
        found = self.places.get(device)
        if found is None:
            arrays = (self.targets, self.offsets, self.starts, self.used)
            found = self.places[device] = RowTensors(*(torch.from_numpy(a).to(device) for a in arrays))
        return found

    def singles_within(self, window: int, device: torch.device) -> RowTensors:
        """The rows with one new token, as it sees them through a window."""
        found = self.windows.get((device, window))
        if found is None:
            found = self.windows[device, window] = self.on(device).first(self.singles).within(window)
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
    singles = next((i for i, s in enumerate(stretches) if s.count > 1), len(stretches))
    return FlashBatch(
        np.repeat(base + position, count) + inside,
        offsets,
        starts,
        used.astype(np.int32),
        int(count.max()),
        int(used.max()),
        singles,
        tuple(stretches[singles:]),
    )


def varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: RowTensors,
    most_new: int,
    most_kept: int,
    scale: float,
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
    if kind.window is not None and kind.window < batch.most_kept:
        return _windowed(batch, q, keys, values, kind.window, kind.scale)
    return varlen(q, keys, values, rows, batch.most_new, batch.most_kept, kind.scale)


def _windowed(
    batch: FlashBatch, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, window: int, scale: float
) -> torch.Tensor:
    """Attention through a sliding window: a token sees itself and the `window - 1` tokens before it."""
    outputs = []
    if batch.singles:
        rows = batch.singles_within(window, keys.device)
        outputs.append(varlen(q[: batch.singles], keys, values, rows, 1, window, scale))
    at = batch.singles
    for chunk in batch.chunks:
        outputs.append(_windowed_chunk(batch, chunk, q[at : at + chunk.count], keys, values, window, scale))
        at += chunk.count
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _windowed_chunk(
    batch: FlashBatch,
    chunk: Stretch,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int,
    scale: float,
) -> torch.Tensor:
    first, end = max(0, chunk.position - window + 1), chunk.position + chunk.count
    k, v = (t[chunk.base + first : chunk.base + end].transpose(0, 1) for t in (keys, values))
    place = (first, chunk.position, chunk.count, window, q.device, q.dtype)
    if place not in batch.masks:
        rows = torch.arange(chunk.position, end, device=q.device)[:, None]
        columns = torch.arange(first, end, device=q.device)
        hidden = (columns > rows) | (columns <= rows - window)
        batch.masks[place] = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill_(hidden, -torch.inf)
    # [groups, kv_heads, count, dim]: the group is a batch dimension over which K and V are shared with stride 0.
    queries = q.reshape(chunk.count, k.shape[0], -1, q.shape[-1]).permute(2, 1, 0, 3)
    out = F.scaled_dot_product_attention(
        queries,
        k.expand(queries.shape[0], -1, -1, -1),
        v.expand(queries.shape[0], -1, -1, -1),
        attn_mask=batch.masks[place].expand(*queries.shape[:3], -1),
        scale=scale,
    )
    return out.permute(2, 1, 0, 3).reshape(q.shape)


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
    try:
        if _agrees(layers[0], heads):
            return True
        log.warning("attention over rows in place gives other results than it should here; rows are gathered instead")
        return False
    except (RuntimeError, TypeError, AttributeError) as error:
        log.warning("attention over rows in place is not possible here (%s); rows are gathered instead", error)
        return False


@torch.inference_mode()
def _agrees(layer: LayerSpec, heads: int) -> bool:
    maker = torch.Generator(device=layer.device).manual_seed(0)
    shape = (700, layer.heads, layer.key_dim)
    k, v = (torch.randn(shape, generator=maker, dtype=layer.dtype, device=layer.device) for _ in range(2))
    for stretches in (
        [Stretch(40, 620, 1), Stretch(3, 6, 1), Stretch(0, 0, 1)],
        [Stretch(40, 20, 1), Stretch(3, 6, 7), Stretch(70, 0, 5), Stretch(90, 300, 290)],
    ):
        batch = describe(stretches)
        tokens = int(batch.offsets[-1])
        q = torch.randn((tokens, heads, layer.key_dim), generator=maker, dtype=layer.dtype, device=layer.device)
        scale = layer.key_dim**-0.5
        # A larger bound than the rows need, as a graph has.
        got = varlen(q, k, v, batch.on(layer.device), batch.most_new, 4096, scale)
        want = plain_varlen(q, k, v, batch.on(layer.device), scale)
        if not bool((got.float() - want.float()).abs().max() < 0.05):
            return False
    return True


def plain_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: RowTensors, scale: float) -> torch.Tensor:
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
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
        weights = torch.softmax(scores.masked_fill(columns > at, -torch.inf), -1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs).to(q.dtype)
