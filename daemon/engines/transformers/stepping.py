"""A whole step of decoding rows by a compiled kernel, as the engine calls it; see `kernels/decoder_step.py`."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Protocol

import torch

from daemon.engines.transformers.attention import DecodeGroup, PrefillChunk, Step
from daemon.engines.transformers.kernels.loading import load_kernel
from daemon.engines.transformers.kernels.panels import COLUMNS, Panels
from daemon.engines.transformers.kernels.team import Team
from daemon.engines.transformers.kv_store import LayerSpec
from daemon.engines.transformers.lean import LeanDecoder, Norm, deviation
from daemon.engines.transformers.products import packed_parts

_STEP = 27
"""The kernel's places before what the model's weights are, whose module cannot be imported where there is no numba."""
_FIXED = 9
"""Of those, the ones that no step changes."""
_MEETING = 32
"""Integers by which the threads meet."""
_STORES = {torch.float16: "fp16", torch.float32: "fp32"}
Slabs = Sequence[Sequence[torch.Tensor]]


class Store(Protocol):
    """What holds keys and values, `[slots, kv_heads, capacity, dim]` by size class and layer."""

    @property
    def keys(self) -> Slabs: ...
    @property
    def values(self) -> Slabs: ...
    @property
    def version(self) -> int:
        """Another one whenever a slab has become another tensor."""


class Slate:
    """A store for trials: one size class, nothing in it."""

    version = 0

    def __init__(self, layers: Sequence[LayerSpec], slots: int, capacity: int) -> None:
        self.keys, self.values = (
            [[torch.zeros(slots, each.heads, capacity, dim, dtype=each.dtype) for each in layers]]
            for dim in (layers[0].key_dim, layers[0].value_dim)
        )


class DecoderStep:
    """One decoder's steps; for one thread at a time.

    Args:
        model: what no step changes, in the kernel's order, and the weights' places behind it.
        held: whatever those are the addresses of.
    """

    def __init__(
        self,
        team: Team,
        function: int,
        lean: LeanDecoder,
        head: Panels,
        model: list[int],
        weights: list[int],
        held: list[object],
    ) -> None:
        self._team = team
        self._function = function
        self._lean = lean
        self._held = held
        self._table = (ctypes.c_int64 * (_STEP + len(weights)))(*model, *[0] * (_STEP - _FIXED), *weights)
        self._slabs: tuple[Store, object, ctypes.Array[ctypes.c_int64]] | None = None
        """Whose addresses were last used, in which version and for which size classes."""
        self._widest = max(lean.width, lean.inner, lean.heads * lean.dim)
        self._columns = lean.heads + 2 * lean.kv_heads
        self._head = head
        self._room = torch.empty(0, dtype=torch.float32)

    def logits(self, ids: torch.Tensor, groups: Sequence[DecodeGroup], store: Store) -> torch.Tensor:
        """Logits `[rows, vocab]` of the rows' newest tokens, whose keys and values are written to the store.

        Args:
            ids: `[rows]`, in the groups' order.
        """
        lean, rows = self._lean, len(ids)
        slots = [slot for group in groups for slot in group.slots]
        positions = [position for group in groups for position in group.positions]
        at = torch.tensor([slots, positions, [number for number, group in enumerate(groups) for _ in group.slots]])
        longest = max(group.longest for group in groups)
        cos, sin = lean.tables(longest - 1)
        x = lean.embed(ids)
        threads = torch.get_num_threads()
        each = max(longest, 2 * COLUMNS * rows)
        # In the kernel's order: normalised, q k v, mixed, active, codes, steps, scratch.
        sizes = (
            rows * lean.width,
            rows * self._columns * lean.dim,
            rows * lean.heads * lean.dim,
            rows * lean.inner,
            rows * (self._widest // 2 + 1),
            rows,
            threads * each,
        )
        if self._room.numel() < sum(sizes):
            self._room = torch.empty(sum(sizes), dtype=torch.float32)
        addresses, address = [], self._room.data_ptr()
        for size in sizes:
            addresses.append(address)
            address += 4 * size
        out = torch.empty(rows, COLUMNS * self._head.panels, dtype=torch.float32)
        first = at.data_ptr()
        self._table[_FIXED:_STEP] = [
            *(rows, first, first + 8 * rows, first + 16 * rows, cos.data_ptr(), sin.data_ptr(), len(groups)),
            ctypes.addressof(self._addresses([group.size_class for group in groups], store)),
            *(x.data_ptr(), *addresses, each, out.data_ptr()),
        ]
        self._team.run(self._function, ctypes.addressof(self._table), threads)
        return out if out.shape[1] == self._head.columns else out[:, : self._head.columns]

    def _addresses(self, classes: list[int], store: Store) -> ctypes.Array[ctypes.c_int64]:
        """Where the slabs of these size classes are, layer by layer."""
        wanted = (store.version, classes)
        if self._slabs is None or self._slabs[0] is not store or self._slabs[1] != wanted:
            found: list[int] = []
            for layer in range(len(self._lean.layers)):
                for size_class in classes:
                    keys, values = store.keys[size_class][layer], store.values[size_class][layer]
                    found += (keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1))
            self._slabs = store, wanted, (ctypes.c_int64 * len(found))(*found)
        return self._slabs[2]


@torch.inference_mode()
def step_agrees(step: DecoderStep, lean: LeanDecoder, layers: Sequence[LayerSpec], bound: float) -> bool:
    """Whether steps give the logits that the lean form gives whole texts.

    Args:
        bound: how far they may be apart, in units of their spread.
    """
    length, rows = 9, 3
    texts = [[(7 * row + 3 * at + 1) % 97 for at in range(length)] for row in range(rows)]
    store = Slate(layers, rows + 1, 16)
    got = torch.empty(0)
    for at in range(length):
        group = DecodeGroup(0, 0, [0, 1, 3], [at] * rows)
        got = step.logits(torch.tensor([text[at] for text in texts]), [group], store)
    chunks = [PrefillChunk(0, length * row, 0, 0, length) for row in range(rows)]
    ids, positions = torch.tensor([token for text in texts for token in text]), torch.arange(length).repeat(rows)
    want = lean.logits(ids, positions, None, length - 1, Step([], chunks, None))[length - 1 :: length]
    return deviation(got, want) < bound


@torch.inference_mode()
def trial_time(step: DecoderStep, layers: Sequence[LayerSpec], rows: int) -> float:
    """Seconds for a step of so many rows: the best of a few."""
    store, best = Slate(layers, rows, 16), float("inf")
    for _ in range(5):
        start = time.perf_counter()
        step.logits(torch.zeros(rows, dtype=torch.long), [DecodeGroup(0, 0, list(range(rows)), [8] * rows)], store)
        best = min(best, time.perf_counter() - start)
    return best


def build_step(lean: LeanDecoder, layers: Sequence[LayerSpec]) -> DecoderStep | None:
    """The step of a decoder all of whose weights are packed in one way; None for any other."""
    products = [each for layer in lean.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    found_parts = [packed_parts(each) for each in (*products, lean.head)]
    packed = [parts for parts in found_parts if parts is not None]
    kinds = {panels.kind for panels, _ in packed}
    if len(packed) < len(found_parts) or len(kinds) != 1 or not _is_of_one_kind(lean, layers):
        return None
    found = load_kernel("decoder_step", kinds.pop(), _STORES[layers[0].dtype])
    if found is None:
        return None
    numbers = torch.tensor([lean.norm.eps, lean.layers[0].kind.scale], dtype=torch.float32)
    model = [len(layers), lean.width, lean.heads, lean.kv_heads, lean.dim, lean.inner]
    meeting = torch.zeros(_MEETING, dtype=torch.int64)
    model += [numbers.data_ptr(), numbers.data_ptr() + 4, meeting.data_ptr()]
    held: list[object] = [numbers, meeting]
    places = iter([_product(parts, held) for parts in packed])
    weights: list[int] = []
    for layer in lean.layers:
        weights += (_norm(layer.attention_norm), *next(places), _norm(layer.query_norm), _norm(layer.key_norm))
        weights += (*next(places), _norm(layer.mlp_norm), *next(places), *next(places), layer.kind.window or 0)
    head = packed[-1][0]
    return DecoderStep(*found, lean, head, model, [_norm(lean.norm), *next(places), *weights], held)


def _is_of_one_kind(lean: LeanDecoder, layers: Sequence[LayerSpec]) -> bool:
    """Whether the kernel knows its layers: SiLU, one scale and one eps, and a store of heads as wide as the queries."""
    norms = [norm for layer in lean.layers for norm in layer.norms]
    return (
        all(layer.activation is torch.nn.functional.silu for layer in lean.layers)
        and all(layer.kind.plain and layer.kind.scale == lean.layers[0].kind.scale for layer in lean.layers)
        and all(norm.weight.dtype == torch.float32 and norm.eps == lean.norm.eps for norm in (lean.norm, *norms))
        and all(spec == layers[0] for spec in layers)
        and layers[0].key_dim == layers[0].value_dim == lean.dim
        and layers[0].dtype in _STORES
        and layers[0].device.type == "cpu"
        and lean.dim % 2 == 0
        and lean.inner % COLUMNS == 0
        and lean.width % COLUMNS == 0
    )


def _product(parts: tuple[Panels, torch.Tensor | None], held: list[object]) -> tuple[int, int, int, int, int]:
    """A product's places; its bias is as wide as its panels."""
    panels, bias = parts
    if bias is not None:
        wide = torch.zeros(panels.panels * COLUMNS, dtype=torch.float32)
        wide[: panels.columns] = bias
        bias = wide
    held.append((panels, bias))
    return panels.places(bias)


def _norm(norm: Norm | None) -> int:
    return 0 if norm is None else norm.weight.data_ptr()
