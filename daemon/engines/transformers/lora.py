"""LoRA adapters over a loaded model: any mixture of them, and the model as it is, in one packed batch.

The pairs of all adapters for one layer stand side by side: `x @ down.T` gives every adapter's few columns for every
token, a mask keeps those of the token's own adapter, and one more product adds them to the layer's output. So a layer
costs three small operators, however many adapters a step mixes, and a token without one gets exactly the model's own
result: zeros are added.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from daemon.engines.transformers.adapter_files import AdapterFile, Pair
from daemon.engines.transformers.lean import LeanDecoder
from daemon.engines.transformers.products import Product

_current = threading.local()
_MERGED: Mapping[str, tuple[str, ...]] = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The products of the lean forward, and the layers that each stands for."""


@dataclass(eq=False)
class LoraBatch:
    """Which adapter each token of a step uses, by its number from 1 on; 0 is none.

    `kept` are the same for the tokens whose logits are computed; None for all.
    """

    tokens: list[int]
    kept: list[int] | None = None
    used: frozenset[int] = frozenset()
    masks: dict[Any, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.used = frozenset(self.tokens) - {0}

    def mask(self, columns: tuple[int, ...], head: bool, like: torch.Tensor) -> torch.Tensor:
        """`[tokens, columns]`: 1 where a column is of the token's own adapter. Layers that look alike share it."""
        place = (columns, head, like.device, like.dtype)
        if place not in self.masks:
            owners = self.kept if head and self.kept is not None else self.tokens
            same = torch.tensor(owners)[:, None] == torch.tensor(columns)[None]
            self.masks[place] = same.to(device=like.device, dtype=like.dtype)
        return self.masks[place]


@contextmanager
def applied(batch: LoraBatch | None) -> Iterator[None]:
    """Make `batch` what the layers serve in this thread."""
    _current.batch = batch
    try:
        yield
    finally:
        _current.batch = None


class Site:
    """The adapters of one layer.

    `down` is `[columns, inputs]` (of a table `[tokens, columns]`), `up` `[columns, outputs]`; `owners` are the
    adapters' numbers, column by column.
    """

    def __init__(
        self,
        down: torch.Tensor,
        up: torch.Tensor,
        owners: tuple[int, ...],
        *,
        head: bool = False,
        is_table: bool = False,
    ) -> None:
        self.down = down
        self.up = up
        self.owners = owners
        self.head = head
        self.is_table = is_table
        self._all = frozenset(owners)
        self._chosen: tuple[frozenset[int], torch.Tensor, torch.Tensor, tuple[int, ...]] | None = None

    def add(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add to `out` `[..., outputs]` what the tokens' adapters make of `x` `[..., inputs]`; `out` is written to."""
        batch: LoraBatch | None = getattr(_current, "batch", None)
        if batch is None or not (used := batch.used & self._all):
            return out
        down, up, owners = self._columns(used)
        if x.device != up.device:
            x = x.to(up.device)
        few = F.embedding(x.reshape(-1), down) if self.is_table else F.linear(x.reshape(-1, x.shape[-1]), down)
        few = few * batch.mask(owners, self.head, few)
        return out.view(-1, out.shape[-1]).addmm_(few.to(out.dtype), up).view(out.shape)

    def _columns(self, used: frozenset[int]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
        """The columns of the adapters that a step uses: reading all the others' would cost as much as using them."""
        if used == self._all:
            return self.down, self.up, self.owners
        kept = self._chosen
        if kept is None or kept[0] != used:
            places = [place for place, owner in enumerate(self.owners) if owner in used]
            index = torch.tensor(places, device=self.up.device)
            down = self.down.index_select(1 if self.is_table else 0, index)
            owners = tuple(self.owners[place] for place in places)
            kept = self._chosen = (used, down, self.up.index_select(0, index), owners)
        return kept[1:]


@dataclass(slots=True)
class Adapted:
    """A product of the lean forward with its adapters."""

    inner: Product
    site: Site

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.site.add(self.inner(x), x)

    def add(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.site.add(self.inner.add(residual, x), x)


class Adapters:
    """The adapters that a model was loaded with."""

    def __init__(self, names: Sequence[str], sites: Sequence[Site]) -> None:
        self.names = tuple(names)
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for s in sites for t in (s.down, s.up)}
        self.bytes = sum(storages.values())

    def number(self, name: str) -> int:
        """0 for the model as it is."""
        return self._numbers[name] if name else 0

    def batch(self, users: Sequence[tuple[str, int]], keep: Sequence[int] | None) -> LoraBatch | None:
        """The batch of a step, None when it uses no adapter.

        Args:
            users: the adapter of each stretch of tokens, and how many they are, in the step's order.
            keep: the tokens whose logits are computed; None for all.
        """
        if not any(name for name, _ in users):
            return None
        tokens: list[int] = []
        for name, count in users:
            tokens += [self.number(name)] * count
        return LoraBatch(tokens, None if keep is None else [tokens[place] for place in keep])


def install(model: Any, lean: LeanDecoder | None, files: Sequence[AdapterFile], dtype: torch.dtype) -> Adapters:
    """Read the adapters and put them into the model's layers, and into its lean form's.

    Raises:
        ModelLoadError: an adapter does not fit the model.
    """
    pairs: dict[str, list[tuple[int, Pair]]] = {}
    for number, file in enumerate(files, 1):
        for wanted, pair in file.pairs().items():
            name = _find(model, wanted, file)
            _check(model.get_submodule(name), wanted, pair, file)
            if not fits_format(pair, dtype):
                raise file.refusal(f"the pair for '{wanted}' holds numbers that {str(dtype)[6:]} cannot")
            pairs.setdefault(name, []).append((number, pair))
    head = model.get_output_embeddings()
    sites: dict[str, Site] = {}
    for name, found in pairs.items():
        module = model.get_submodule(name)
        sites[name] = _site(found, module.weight.device, dtype, head=module is head)
        module.register_forward_hook(_hook(sites[name]))
    if lean is not None:
        _adapt_lean(model, lean, sites)
    return Adapters([file.name for file in files], list(sites.values()))


def _find(model: Any, wanted: str, file: AdapterFile) -> str:
    """The layer's name in the model: an adapter may have been trained on its body alone, or inside a larger model."""
    for name in (wanted, f"model.{wanted}", wanted.replace("language_model.", "")):
        try:
            model.get_submodule(name)
        except AttributeError:
            continue
        return name
    raise file.refusal(
        f"it changes '{wanted}', which this model does not have", "Load it over the model that it was trained for."
    )


def _check(module: Any, name: str, pair: Pair, file: AdapterFile) -> None:
    """Raises ModelLoadError: the pair does not fit the layer."""
    if pair.is_table:
        if getattr(module, "scalar_embed_scale", None) is not None or getattr(module, "embed_scale", None) is not None:
            raise file.refusal(f"it changes '{name}', an embedding that is scaled, which is not run here")
        expected = (getattr(module, "num_embeddings", None), getattr(module, "embedding_dim", None))
    elif type(module).__name__ == "Conv1D":
        expected = (module.weight.shape[0], module.nf)
    else:
        expected = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    if None in expected:
        raise file.refusal(f"it changes '{name}', a {type(module).__name__}, and only linear layers are run here")
    got = (pair.down.shape[1], pair.up.shape[0])
    if got != expected:
        raise file.refusal(
            f"'{name}' goes from {expected[0]} to {expected[1]} in this model and from {got[0]} to {got[1]} in it",
            "Load it over the model that it was trained for.",
        )


def fits_format(pair: Pair, dtype: torch.dtype) -> bool:
    """Whether every number of it is finite in the format that it is computed in.

    One that is not would reach the tokens of other adapters in the same step: a mask's zero times it is no number.
    """
    return all(bool(torch.isfinite(half.to(dtype)).all()) for half in (pair.down, pair.up))


def _site(found: Sequence[tuple[int, Pair]], device: torch.device, dtype: torch.dtype, *, head: bool) -> Site:
    down = torch.cat([pair.down.to(device, dtype) for _, pair in found])
    up = torch.cat([pair.up.T.to(device, dtype) for _, pair in found])
    owners = tuple(number for number, pair in found for _ in range(pair.down.shape[0]))
    is_table = found[0][1].is_table
    return Site(down.T.contiguous() if is_table else down, up, owners, head=head, is_table=is_table)


def _hook(site: Site) -> Any:
    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return site.add(out, inputs[0])

    return add


def _adapt_lean(model: Any, lean: LeanDecoder, sites: Mapping[str, Site]) -> None:
    def wrap(layer: int, part: str, product: Product) -> Product:
        if layer < 0:
            found = [sites.get("lm_head")]
            widths = [0]
        else:
            names = [f"model.layers.{layer}.{name}" for name in _MERGED[part]]
            found = [sites.get(name) for name in names]
            widths = [model.get_submodule(name).out_features for name in names]
        site = _joined(found, widths)
        return product if site is None else Adapted(product, site)

    lean.adapt(wrap)


def _joined(parts: Sequence[Site | None], widths: Sequence[int]) -> Site | None:
    """The sites of layers that share their input as one; they become views of it, so nothing is held twice."""
    found = [site for site in parts if site is not None]
    if not found or len(parts) == 1:
        return found[0] if found else None
    down = torch.cat([site.down for site in found])
    up = found[0].up.new_zeros(down.shape[0], sum(widths))
    row = column = 0
    for site, width in zip(parts, widths, strict=True):
        if site is not None:
            rows = site.up.shape[0]
            block = up[row : row + rows, column : column + width]
            block.copy_(site.up)
            site.down, site.up = down[row : row + rows], block
            row += rows
        column += width
    return Site(down, up, tuple(owner for site in found for owner in site.owners))
