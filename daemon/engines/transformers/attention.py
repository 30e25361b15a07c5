"""Our attention function for transformers' models: packed tokens in, K and V into the store, SDPA by rows and chunks.

A step is one packed batch `[1, N]`: first the tokens of rows that decode (one each, ordered by size class and slot),
then prefill chunks. Decode rows of one class are read as one view of its slab. The heads that share a K/V head are
folded into the query's length, so nothing is repeated.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from daemon.engines.transformers.arena import ArenaStore
from daemon.engines.transformers.flash_rows import FlashBatch, flash_attend
from daemon.engines.transformers.kernels.attending import DecodeAttention
from daemon.engines.transformers.kv_store import KvStore, LayerSpec

NAME = "fcd"
MASK_AREA = 1 << 24
"""Queries times keys that are masked at once."""
MIN_ROWS = 16


@dataclass(frozen=True, slots=True)
class _Indices:
    slots: torch.Tensor
    positions: torch.Tensor
    spread: torch.Tensor | None
    """Where there are holes between the slots: each row's place in the view."""


@dataclass(eq=False, slots=True)
class DecodeGroup:
    """Rows of one size class, one token each. `slots` ascend; `low:high` is the view of the slab that covers them."""

    size_class: int
    first: int
    slots: list[int]
    positions: list[int]
    low: int = 0
    high: int = 0
    longest: int = 0
    indices: dict[torch.device, _Indices] = field(default_factory=dict)
    _places: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.low, self.high = self.slots[0], self.slots[-1] + 1
        self.longest = max(self.positions) + 1

    @property
    def places(self) -> torch.Tensor:
        """`[2, rows]` on the CPU: slots and positions."""
        if self._places is None:
            self._places = torch.tensor([self.slots, self.positions])
        return self._places

    def on(self, device: torch.device) -> _Indices:
        """The slots and positions as tensors on a layer's device."""
        found = self.indices.get(device)
        if found is None:
            both = self.places.to(device)
            holes = self.high - self.low != len(self.slots)
            found = self.indices[device] = _Indices(both[0], both[1], both[0] - self.low if holes else None)
        return found


@dataclass(eq=False, slots=True)
class PrefillChunk:
    """`count` tokens of one row, from position `start`."""

    size_class: int
    first: int
    slot: int
    start: int
    count: int


@dataclass(eq=False)
class Step:
    """One packed batch. `store` None: every chunk attends to itself alone and nothing is kept (embeddings, probes)."""

    groups: list[DecodeGroup]
    chunks: list[PrefillChunk]
    store: KvStore | None
    masks: dict[Any, torch.Tensor | None] = field(default_factory=dict)
    seen: dict[int, tuple[LayerSpec, AttentionKind]] | None = None
    """Filled for each layer when given: how the loader learns what the store must hold, and how it is read."""
    flash: tuple[ArenaStore, FlashBatch] | None = None
    """Rows read where they lie, in one call; `groups`, `chunks` and `store` are then not used."""
    kernel: DecodeAttention | None = None
    """For groups in fp32 on the CPU whose attention is plain."""


_current = threading.local()


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Make `step` what the attention function serves in this thread."""
    _current.step = step
    try:
        yield
    finally:
        _current.step = None


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the current step.

    Args:
        query: `[1, heads, N, dim]`; key and value `[1, kv_heads, N, dim]`.
        sliding_window: a token sees itself and the `sliding_window - 1` tokens before it.
        softcap: scores become `softcap * tanh(score / softcap)` (Gemma 2).
        s_aux: one learned sink logit per head (GPT-OSS).

    Returns:
        `[1, N, heads, dim]`.
    """
    step: Step | None = getattr(_current, "step", None)
    if step is None:
        raise RuntimeError("the fcd attention function was called outside an engine step")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    kind = AttentionKind(scale, sliding_window, softcap, s_aux)
    if step.seen is not None:
        step.seen[layer] = (LayerSpec(k.shape[1], k.shape[2], v.shape[2], k.dtype, k.device), kind)
    return attend(step, layer, q, k, v, kind).unsqueeze(0), None


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """What distinguishes one layer's attention from plain causal attention."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Nothing enters between the scores and the softmax."""
        return self.softcap is None and self.sinks is None


def attend(
    step: Step, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
) -> torch.Tensor:
    """Write K and V to the store and attend.

    Args:
        q: `[N, heads, dim]`; k and v `[N, kv_heads, dim]`.

    Returns:
        `[N, heads, dim]`.
    """
    if step.flash is not None:
        return flash_attend(*step.flash, layer, q, k, v, kind)
    outputs = [_decode(step, group, layer, q, k, v, kind) for group in step.groups]
    outputs += [_prefill(step, chunk, layer, q, k, v, kind) for chunk in step.chunks]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _decode(
    step: Step, group: DecodeGroup, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
) -> torch.Tensor:
    """One token per row: `[rows, heads, dim]` in, the same out."""
    assert step.store is not None
    keys, values = step.store.keys[group.size_class][layer], step.store.values[group.size_class][layer]
    rows = len(group.slots)
    span = slice(group.first, group.first + rows)
    kv_heads = keys.shape[1]
    if step.kernel is not None and kind.plain and step.kernel.fits(q, k, v, keys):
        places, longest = group.places, group.longest
        return step.kernel(q[span], k[span], v[span], keys, values, places, longest, kind.scale, kind.window)
    queries = q[span].reshape(rows, kv_heads, -1, q.shape[-1])
    if rows == 1:
        # Plain copies: an indexed write costs as much as ten of them.
        slot, position = group.slots[0], group.positions[0]
        keys[slot, :, position] = _storable(k[group.first], keys)
        values[slot, :, position] = _storable(v[group.first], values)
        return _attend(
            queries,
            keys[slot : slot + 1, :, : position + 1].to(q.dtype),
            values[slot : slot + 1, :, : position + 1].to(q.dtype),
            _decode_mask(step, group, kind.window, q),
            kind,
        ).reshape(1, q.shape[1], -1)
    at = group.on(keys.device)
    keys[at.slots, :, at.positions] = _storable(k[span], keys)
    values[at.slots, :, at.positions] = _storable(v[span], values)
    if at.spread is not None:
        spread = queries.new_zeros(group.high - group.low, *queries.shape[1:])
        queries = spread.index_copy_(0, at.spread, queries)
    mask = _decode_mask(step, group, kind.window, q)
    out = _attend(
        queries,
        keys[group.low : group.high, :, : group.longest].to(q.dtype),
        values[group.low : group.high, :, : group.longest].to(q.dtype),
        mask,
        kind,
    )
    if at.spread is not None:
        out = out.index_select(0, at.spread)
    return out.reshape(rows, q.shape[1], -1)


def _prefill(
    step: Step, chunk: PrefillChunk, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
) -> torch.Tensor:
    """A chunk of one row: `[count, heads, dim]` in, the same out."""
    span = slice(chunk.first, chunk.first + chunk.count)
    kv_heads = k.shape[1]
    heads = q.shape[1]
    if step.store is None:
        keys, values = k[span].transpose(0, 1), v[span].transpose(0, 1)
    else:
        end = chunk.start + chunk.count
        keys = step.store.keys[chunk.size_class][layer][chunk.slot, :, :end]
        values = step.store.values[chunk.size_class][layer][chunk.slot, :, :end]
        keys[:, chunk.start :] = _storable(k[span].transpose(0, 1), keys)
        values[:, chunk.start :] = _storable(v[span].transpose(0, 1), values)
        keys, values = keys.to(q.dtype), values.to(q.dtype)
    parts = _parts(chunk)
    outputs = []
    for part in parts:
        # [groups, kv_heads, count, dim]: the group is a batch dimension over which K and V are shared with stride 0.
        own = q[part.first : part.first + part.count]
        queries = own.view(part.count, kv_heads, heads // kv_heads, -1).permute(2, 1, 0, 3)
        end = part.start + part.count
        mask = _chunk_mask(step, part, kind.window, q, keep=len(parts) == 1)
        out = _attend(
            queries,
            keys[:, :end].expand(queries.shape[0], -1, -1, -1),
            values[:, :end].expand(queries.shape[0], -1, -1, -1),
            mask,
            kind,
            by_head=True,
        )
        outputs.append(out.permute(2, 1, 0, 3).reshape(part.count, heads, -1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _storable(new: torch.Tensor, slab: torch.Tensor) -> torch.Tensor:
    """As the slab has it: the largest number that its type has stands for what is beyond it, as in the kernel."""
    if new.dtype == slab.dtype:
        return new
    most = torch.finfo(slab.dtype).max
    return new.clamp(-most, most).to(slab.dtype)


def _parts(chunk: PrefillChunk) -> list[PrefillChunk]:
    """A chunk in stretches of queries whose masks are bounded: a long text to embed is one chunk."""
    most = max(MIN_ROWS, MASK_AREA // (chunk.start + chunk.count))
    if chunk.count <= most:
        return [chunk]
    return [
        PrefillChunk(chunk.size_class, chunk.first + at, chunk.slot, chunk.start + at, min(most, chunk.count - at))
        for at in range(0, chunk.count, most)
    ]


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    kind: AttentionKind,
    *,
    by_head: bool = False,
) -> torch.Tensor:
    """SDPA, or the same by hand where a soft cap or a sink must enter between the scores and the softmax.

    q is `[rows, kv_heads, group, dim]`, or with `by_head` `[group, kv_heads, count, dim]`.
    """
    if kind.plain:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=None if mask is None else mask.expand(*q.shape[:3], -1), scale=kind.scale
        )
    scores = torch.matmul(q, k.transpose(2, 3)) * kind.scale
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    if mask is not None:
        scores = scores + mask
    if kind.sinks is None:
        return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype), v)
    sinks = kind.sinks.to(scores.dtype).view(k.shape[1], -1)
    sinks = sinks.T[:, :, None, None] if by_head else sinks[None, :, :, None]
    scores = torch.cat([scores, sinks.expand(*scores.shape[:3], 1)], -1)
    weights = torch.softmax(scores, -1, dtype=torch.float32)[..., :-1]
    return torch.matmul(weights.to(v.dtype), v)


def _decode_mask(step: Step, group: DecodeGroup, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    """`[rows of the view, 1, 1, longest]`: 0 where a row may look, -inf elsewhere; None when all see everything."""
    if window is not None and window >= group.longest:
        window = None
    place = (id(group), window, like.device, like.dtype)
    if place not in step.masks:
        step.masks[place] = _build_decode_mask(group, window, like)
    return step.masks[place]


def _build_decode_mask(group: DecodeGroup, window: int | None, like: torch.Tensor) -> torch.Tensor | None:
    at = group.on(torch.device("cpu"))
    if window is None and at.spread is None and min(group.positions) + 1 == group.longest:
        return None
    last = torch.zeros(group.high - group.low, dtype=torch.long)
    last[at.slots - group.low] = at.positions
    columns = torch.arange(group.longest)
    hidden = columns > last[:, None]
    if window is not None:
        hidden |= columns <= last[:, None] - window
    mask = torch.zeros(hidden.shape, dtype=like.dtype).masked_fill_(hidden, -math.inf)
    return mask[:, None, None].to(like.device)


def _chunk_mask(
    step: Step, chunk: PrefillChunk, window: int | None, like: torch.Tensor, *, keep: bool
) -> torch.Tensor | None:
    """`[1, 1, count, start + count]`, causal; with `keep` the step's other layers get the same."""
    end = chunk.start + chunk.count
    if window is not None and window >= end:
        window = None
    if chunk.count == 1 and window is None:
        return None
    place = (chunk.start, chunk.count, window, like.device, like.dtype)
    if place not in step.masks:
        rows = torch.arange(chunk.start, end, device=like.device)[:, None]
        columns = torch.arange(end, device=like.device)
        hidden = columns > rows
        if window is not None:
            hidden |= columns <= rows - window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -math.inf)
        if not keep:
            return mask[None, None]
        step.masks[place] = mask[None, None]
    return step.masks[place]


def register() -> None:
    """Make the function known to transformers under our name.

    No mask function is registered with it, which makes the models skip building masks: the step carries its own.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention_forward)
